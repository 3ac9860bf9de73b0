//! Components that go wrong where their key `fault` says, and a constructor that does what `FAULTY_CONSTRUCTOR` says.

mod components;
mod constructor;

mtl_component::export_plugin!();

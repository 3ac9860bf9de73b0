//! Functions: components without parameters that nodes apply.

mod arithmetic;
mod detach;
mod reverse_gradient;

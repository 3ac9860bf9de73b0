//! End-to-end tests of `mtlrun`.

//! Tests of the store as a whole.

mod suite;
mod support;
mod whole;

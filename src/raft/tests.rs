//! Tests of the store as a whole.

mod damage;
mod suite;
mod support;
mod whole;

//! Tests of the store as a whole.

mod damage;
mod full;
mod property;
mod suite;
mod support;
mod versions;
mod whole;

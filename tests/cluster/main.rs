//! The product as users run it: the real binary, real containers, real requests.

mod faults;
mod harness;
mod image;
mod restarts;
mod single;

//! Containers on this host.

pub mod network;

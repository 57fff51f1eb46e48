//! The proxy as it is shipped: its own process, real sockets on loopback, small backends in
//! this test. As root it drops its privileges like on a server; otherwise it stays who it is.

mod framing;
mod gates;
mod lifecycle;
mod limits;
mod serving;
mod streams;
mod support;

//! Containers for real: this binary's shims, an image of a static busybox, as root.
//! Each test has its own folders and tag; a leak counter looks at the host before and after.

mod attacks;
mod faults;
mod lifecycle;
mod node_killed;
mod support;

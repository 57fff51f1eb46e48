//! The composition root: opens the stores, starts the loops, orders the shutdown. No logic
//! of its own. Start with `dev.rs`.

mod folder;
mod machine;
mod tasks;

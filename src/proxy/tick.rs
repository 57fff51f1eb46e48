//! A worker's coarse clock: milliseconds since the worker began, as of its last sweep. Good
//! enough for timeouts of seconds, and costs no system call and no timer for each request.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How often the sweep runs, and so how late a timeout may come.
pub const EVERY: Duration = Duration::from_millis(100);

thread_local! {
    static NOW_MS: Cell<u64> = const { Cell::new(1) };
    static BEGAN: Instant = Instant::now();
}

/// Never 0, which stands for "not".
pub fn now_ms() -> u64 {
    NOW_MS.get()
}

/// Reads the real clock.
pub fn advance() {
    NOW_MS.set(BEGAN.with(|began| began.elapsed().as_millis() as u64) + 1);
}

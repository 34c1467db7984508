//! Waiting for the kernel where it offers nothing to wait on.

use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(5);

/// Looks at `done` until it is true, at most for `limit`; whether it became true.
pub(crate) fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if done() {
            return true;
        }
        if start.elapsed() >= limit {
            return false;
        }
        std::thread::sleep(STEP);
    }
}

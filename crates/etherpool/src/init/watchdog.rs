//! The hardware watchdog: a machine whose first process hangs starts anew.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// The first that there is.
const DEVICE: &str = "/dev/watchdog";
/// In the kernel, for machines without one.
pub const SOFTWARE: &str = "softdog";
/// The shortest that is usual is 30 seconds.
pub const EVERY: Duration = Duration::from_secs(5);

/// A watchdog that runs from the moment it is opened.
pub struct Watchdog {
    device: File,
}

impl Watchdog {
    /// Whether the machine has one.
    pub fn is_there() -> bool {
        Path::new(DEVICE).exists()
    }

    /// Starts it.
    pub fn open() -> io::Result<Watchdog> {
        Ok(Watchdog { device: File::options().write(true).open(DEVICE)? })
    }

    /// All is well.
    pub fn pet(&mut self) {
        if let Err(error) = self.device.write_all(b"1") {
            tracing::warn!(%error, "the watchdog can't be told that all is well");
        }
    }

    /// Switches it off: nobody will be there to tell it.
    pub fn stop(mut self) {
        // What doesn't know that letter stays on, and the machine starts anew.
        let _ = self.device.write_all(b"V");
    }
}

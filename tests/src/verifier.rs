//! A client of a target that never stops comparing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use os::net::InterfaceSpec;

use crate::Target;
use crate::frames::{self, Kind, LoadOptions, Order, Report};

/// Far above what any test takes.
const MAX: Duration = Duration::from_secs(3600);

/// A load that verifies what it reads, until it is told to stop.
pub struct Verifier {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Report>,
}

impl Verifier {
    /// Starts it on the first 4 MiB of an export. It waits long before it asks again: what is sent
    /// again then was lost and not only late.
    pub fn start(target: &Target, address: &str, seed: u64) -> Verifier {
        Verifier::with_patience(target, address, seed, Duration::from_secs(10))
    }

    /// The same by a client that asks again sooner.
    pub fn with_patience(target: &Target, address: &str, seed: u64, retry: Duration) -> Verifier {
        Verifier::on(target.wire().client(), address, seed, retry)
    }

    /// The same on an export of anybody on a cable.
    pub fn on(interface: InterfaceSpec, address: &str, seed: u64, retry: Duration) -> Verifier {
        let stop = Arc::new(AtomicBool::new(false));
        let options = LoadOptions {
            interface,
            address: address.parse().unwrap(),
            kind: Kind::Verify,
            bytes: 4096,
            order: Order::Random,
            offset_bytes: 0,
            range_bytes: 4 << 20,
            depth: 16,
            measured: MAX,
            warm_up: Duration::ZERO,
            pid: None,
            seed,
            sleep: true,
            retry,
            stop: Some(Arc::clone(&stop)),
            verified_min: 200,
        };
        let thread = std::thread::spawn(move || frames::run(&options).unwrap());
        Verifier { stop, thread }
    }

    /// Ends it; all it read was right, and nothing failed.
    pub fn finish(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let report = self.thread.join().unwrap();
        assert_eq!(report.first_error, None);
        assert_eq!(report.first_corrupt, None);
        assert!(report.verified > 100, "nothing was verified: the test shows nothing");
        println!(
            "{} requests, {} verified, p99 {:.0} us, the longest {:.1} ms, {} sent again",
            report.requests,
            report.verified,
            report.p99_us,
            report.max_us / 1e3,
            report.retried
        );
        report
    }
}

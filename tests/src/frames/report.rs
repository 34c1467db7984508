//! What a run of load was like.

use std::time::Duration;

use serde::Serialize;

use super::cpu::CpuTime;

/// The figures of the measured time.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Answered requests.
    pub requests: u64,
    /// Of them per second.
    pub requests_per_second: f64,
    /// Median time until the answer.
    pub p50_us: f64,
    /// Nine in ten were faster.
    pub p90_us: f64,
    /// And 99 in 100.
    pub p99_us: f64,
    /// The slowest.
    pub max_us: f64,
    /// Requests that were sent again.
    pub retried: u64,
    /// Requests that failed.
    pub errors: u64,
    /// How the first one failed.
    pub first_error: Option<String>,
    /// Replies to nothing that was asked, or a second time.
    pub unexpected: u64,
    /// Blocks read whose contents were compared.
    pub verified: u64,
    /// Of them wrong.
    pub corrupt: u64,
    /// What was wrong first.
    pub first_corrupt: Option<String>,
    /// The target's processor time per request.
    pub target_cpu_us: Option<f64>,
    /// Of it in the program, as its ticks were spread.
    pub target_user_us: Option<f64>,
    /// And in the kernel.
    pub target_system_us: Option<f64>,
    /// Share of the time that the target's threads ran.
    pub target_busy: Option<f64>,
}

impl Report {
    pub(super) fn set_times(&mut self, times: &mut [u32], took: Duration) {
        times.sort_unstable();
        let at = |share: f64| {
            let index = (times.len() as f64 * share) as usize;
            times.get(index.min(times.len().saturating_sub(1))).map_or(0., |t| f64::from(*t) / 1e3)
        };
        (self.p50_us, self.p90_us, self.p99_us, self.max_us) = (at(0.5), at(0.9), at(0.99), at(1.));
        self.requests_per_second = self.requests as f64 / took.as_secs_f64();
    }

    pub(super) fn set_cpu(&mut self, used: CpuTime, took: Duration) {
        let requests = self.requests.max(1) as f64;
        let total = used.nanos as f64 / 1e3 / requests;
        let ticks = (used.user_ticks + used.system_ticks).max(1) as f64;
        self.target_cpu_us = Some(total);
        self.target_user_us = Some(total * used.user_ticks as f64 / ticks);
        self.target_system_us = Some(total * used.system_ticks as f64 / ticks);
        self.target_busy = Some(used.nanos as f64 / took.as_nanos() as f64);
    }
}

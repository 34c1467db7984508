//! How much may be on its way to a target, and when an unanswered request counts as lost.
//!
//! A lost frame must cost little. Two signs tell of it: requests of the same kind that were sent
//! later have been answered and a usual round trip is over (cheap, within a round trip), or nothing
//! has come for much longer than usual (the retransmission time-out, with a floor, because a disk is
//! allowed to be slow now and then). Kinds are measured apart: a flush says nothing about a read.

use std::time::Duration;

/// No time-out is shorter: the jitter of a scheduler isn't a loss.
pub(crate) const RTO_MIN: Duration = Duration::from_millis(5);
/// No time-out is longer, so that several tries fit into the time after which a disk is lost.
pub(crate) const RTO_MAX: Duration = Duration::from_millis(250);
/// Before anything was measured.
pub(crate) const RTO_INITIAL: Duration = Duration::from_millis(20);

/// The round trip of one kind of request, as in RFC 6298.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoundTrip {
    smoothed: Option<Duration>,
    deviation: Duration,
    least: Option<Duration>,
    /// How many usual waits to add, learnt from what was sent again in vain: a disk
    /// answers in its own order, and a busy machine now and then late.
    slack: u32,
}

/// So many usual waits are added at most.
const SLACK_MAX: u32 = 16;

impl RoundTrip {
    /// Takes a measurement in.
    pub fn measure(&mut self, sample: Duration) {
        self.least = Some(self.least.map_or(sample, |least| least.min(sample)));
        match self.smoothed {
            None => {
                self.smoothed = Some(sample);
                self.deviation = sample / 2;
            }
            Some(smoothed) => {
                self.deviation = (self.deviation * 3 + smoothed.abs_diff(sample)) / 4;
                self.smoothed = Some((smoothed * 7 + sample) / 8);
            }
        }
    }

    /// A request was sent again although nothing was lost.
    pub fn was_spurious(&mut self) {
        self.slack = (self.slack * 2).clamp(1, SLACK_MAX);
    }

    /// A request was really lost: waiting longer for it was of no use.
    pub fn was_lost(&mut self) {
        self.slack = self.slack.saturating_sub(1);
    }

    /// The usual round trip; `None` before the first.
    pub fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// When the `tries`-th transmission (from 1) counts as lost with nothing else to go by.
    /// `fallback` is the round trip of the opening, for the first request of a kind.
    pub fn timeout(&self, tries: u32, fallback: Option<Duration>) -> Duration {
        let base = match (self.smoothed, fallback) {
            (Some(smoothed), _) => smoothed + self.deviation * 4,
            (None, Some(opening)) => (opening * 3).max(RTO_INITIAL),
            (None, None) => RTO_INITIAL,
        };
        let least = RTO_MIN * (1 + self.slack / 4);
        let doubled = base.max(least) * (1 << tries.saturating_sub(1).min(8));
        doubled.min(RTO_MAX.max(base * 2))
    }

    /// When a transmission that was overtaken counts as lost; `None` while nothing is known.
    pub fn overtaken_timeout(&self, tries: u32) -> Option<Duration> {
        let smoothed = self.smoothed?;
        let wait = smoothed + (self.deviation * 2).max(smoothed / 4);
        Some(wait * (1 + self.slack) * (1 << tries.saturating_sub(1).min(8)))
    }

    #[cfg(test)]
    pub fn slack(&self) -> u32 {
        self.slack
    }

    /// Whether nothing was sent again in vain lately.
    pub fn is_steady(&self) -> bool {
        self.slack == 0
    }

    /// How many of `size` unanswered requests don't stand in queues on the way, judging by how much
    /// longer than necessary answers take.
    fn without_queue(&self, size: u32) -> u32 {
        match (self.smoothed, self.least) {
            (Some(smoothed), Some(least)) if !smoothed.is_zero() => {
                (u128::from(size) * least.as_nanos() / smoothed.as_nanos()) as u32
            }
            _ => size,
        }
    }
}

/// The number of frames that may be on their way, or of requests where each is one: slow start up to the first loss, then an eighth
/// more per round trip. A loss takes back what only stood in queues (as TCP Westwood does): a frame
/// that was lost by chance then costs little, one that a full buffer dropped costs what had filled
/// the buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    size: u32,
    limit: u32,
    threshold: u32,
    credit: u32,
    /// Size and threshold before the steps down of which no loss has been proven yet.
    before: Option<(u32, u32)>,
}

/// Where a window starts.
const SIZE_INITIAL: u32 = 16;
/// Answered frames for one more, after the first loss.
const GROWTH_REPLIES: u32 = 8;
/// No loss makes a window smaller.
const SIZE_MIN: u32 = 4;

impl Window {
    /// A window that never grows above `limit`.
    pub fn new(limit: u32) -> Window {
        let limit = limit.max(1);
        Window { size: SIZE_INITIAL.min(limit), limit, threshold: limit, credit: 0, before: None }
    }

    /// How many frames may be on their way.
    pub fn size(&self) -> usize {
        self.size as usize
    }

    /// How many it is at most.
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    /// Requests of so many frames were answered.
    pub fn grow(&mut self, frames: usize) {
        (0..frames).for_each(|_| self.grow_by_frame());
    }

    fn grow_by_frame(&mut self) {
        if self.size >= self.limit {
            return;
        }
        if self.size < self.threshold {
            self.size += 1;
            return;
        }
        self.credit += 1;
        if self.credit >= GROWTH_REPLIES {
            self.credit = 0;
            self.size += 1;
        }
    }

    /// Something of a request of `own_frames` was lost. Called at most once per round trip. Its round trip
    /// has the way of as many frames in it, each behind the other, its own or those of the command before:
    /// they are no queue that a smaller window would spare.
    pub fn shrink(&mut self, round_trip: &RoundTrip, own_frames: usize) {
        self.before.get_or_insert((self.size, self.threshold));
        let own = u32::try_from(own_frames).unwrap_or(u32::MAX).min(self.size / 2);
        let smaller = round_trip.without_queue(self.size) * self.size / (self.size - own);
        let bounded = smaller.clamp(self.size / 2, self.size - self.size / 16);
        self.size = bounded.max(SIZE_MIN).min(self.limit);
        self.threshold = self.size;
        self.credit = 0;
    }

    /// The same request was lost again and again: something is wrong on the way.
    pub fn collapse(&mut self) {
        self.before.get_or_insert((self.size, self.threshold));
        self.threshold = (self.size / 2).max(SIZE_MIN).min(self.limit);
        self.size = SIZE_MIN.min(self.limit);
        self.credit = 0;
    }

    /// What was sent again had not been lost: the steps down were a mistake.
    pub fn restore(&mut self) {
        let Some((size, threshold)) = self.before.take() else { return };
        self.size = self.size.max(size);
        self.threshold = self.threshold.max(threshold);
    }

    /// What was sent again had been lost: the steps down were right.
    pub fn confirm(&mut self) {
        self.before = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_follows_the_round_trip_and_doubles() {
        let mut round_trip = RoundTrip::default();
        assert_eq!(round_trip.timeout(1, None), RTO_INITIAL);
        assert_eq!(
            round_trip.timeout(1, Some(Duration::from_millis(10))),
            Duration::from_millis(30)
        );
        for _ in 0..50 {
            round_trip.measure(Duration::from_micros(100));
        }
        assert_eq!(round_trip.timeout(1, None), RTO_MIN);
        assert_eq!(round_trip.timeout(3, None), RTO_MIN * 4);
        assert_eq!(round_trip.timeout(60, None), RTO_MAX);
        assert!(
            round_trip.overtaken_timeout(1).is_some_and(|time| time < Duration::from_micros(200))
        );
        for _ in 0..50 {
            round_trip.measure(Duration::from_secs(3));
        }
        assert!(
            round_trip.timeout(1, None) > Duration::from_secs(2),
            "a slow disk is not a lost one"
        );
    }

    /// On a busy machine a tenth of the requests were sent again in vain, each time on account of the
    /// window, which then stood at a twentieth of its size.
    #[test]
    fn mistaken_losses_lengthen_the_wait_and_cost_no_window() {
        let mut round_trip = RoundTrip::default();
        (0..50).for_each(|_| round_trip.measure(Duration::from_micros(100)));
        let (usual, timeout) = (round_trip.overtaken_timeout(1), round_trip.timeout(1, None));
        (0..10).for_each(|_| round_trip.was_spurious());
        let patient = round_trip.overtaken_timeout(1);
        assert_eq!(patient, usual.map(|usual| usual * (1 + SLACK_MAX)));
        assert_eq!(round_trip.timeout(1, None), timeout * (1 + SLACK_MAX / 4));
        (0..SLACK_MAX).for_each(|_| round_trip.was_lost());
        assert_eq!(round_trip.overtaken_timeout(1), usual);

        let mut window = Window::new(64);
        window.grow(100);
        window.shrink(&round_trip, 0);
        window.collapse();
        window.restore();
        assert_eq!(window.size(), 64);
        window.shrink(&round_trip, 0);
        window.confirm();
        window.restore();
        assert!(window.size() < 64, "a proven loss isn't taken back");
    }

    #[test]
    fn a_window_grows_to_its_limit_and_survives_loss() {
        let mut window = Window::new(64);
        window.grow(100);
        assert_eq!(window.size(), 64);
        window.shrink(&RoundTrip::default(), 0);
        assert_eq!(window.size(), 60);
        (0..20).for_each(|_| window.collapse());
        assert_eq!(window.size(), SIZE_MIN as usize);
        assert_eq!(Window::new(0).size(), 1);
        let mut tiny = Window::new(2);
        tiny.collapse();
        assert_eq!(tiny.size(), 2);
    }

    /// Two commands that share the window, each half of it, stand in each other's way by nature. A window
    /// that doesn't know it gets smaller with each loss, until the way is idle most of the time.
    #[test]
    fn a_commands_own_frames_are_no_queue() {
        let mut round_trip = RoundTrip::default();
        round_trip.measure(Duration::from_micros(100));
        (0..50).for_each(|_| round_trip.measure(Duration::from_micros(200)));
        let after = |own| {
            let mut window = Window::new(256);
            window.grow(256);
            window.shrink(&round_trip, own);
            window.size()
        };
        assert_eq!((after(0), after(1), after(64)), (128, 128, 170));
        assert_eq!((after(128), after(1000)), (240, 240), "nothing but a step");
    }
}

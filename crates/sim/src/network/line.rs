//! What a cable carries, and what waits in front of it.
//!
//! Without a [`Line`] a cable has a delay by chance, and its far end takes frames at any rate: that is what
//! random runs have. With one, a frame is put on the wire bit by bit at both ends of the switch: it waits
//! in the machine for those before it, then, whole, in the switch's port to the receiver. Both queues are
//! bounded in bytes, and what finds one full is dropped: so answers of many machines at once to one are
//! too much for the port to it. Nothing is drawn; what a cable does wrong by chance stays with
//! [`super::Quality`], of which the delay, its jitter and the rate don't count here.
//!
//! A broadcast occupies its sender's cable once for each receiver. The delays and the sizes of the queues are
//! assumptions: a small switch with half a megabyte for a port (a megabyte where it is faster), and in the
//! machine room for several windows of requests, because production waits where an interface is full.

use std::cell::Cell;
use std::time::Duration;

use block::Instant;

/// Bytes that Ethernet adds to a frame without its check sum: preamble, check sum, gap.
const WIRE_BYTES: usize = 8 + 4 + 12;

/// A cable and the queues at both of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// What passes in each direction.
    pub bytes_per_second: u64,
    /// From one end to the other, with what the receiver takes to notice.
    pub delay: Duration,
    /// What may wait in the machine.
    pub machine_queue_bytes: u64,
    /// What may wait in the switch.
    pub switch_queue_bytes: u64,
}

impl Line {
    /// 1 Gbit/s.
    pub const GIGABIT: Line = Line {
        bytes_per_second: 125_000_000,
        delay: Duration::from_micros(20),
        machine_queue_bytes: 16 << 20,
        switch_queue_bytes: 512 << 10,
    };

    /// 10 Gbit/s.
    pub const TEN_GIGABIT: Line = Line {
        bytes_per_second: 1_250_000_000,
        delay: Duration::from_micros(10),
        switch_queue_bytes: 1 << 20,
        ..Line::GIGABIT
    };
}

/// What waits in front of one direction of a cable.
#[derive(Default)]
pub(super) struct PortQueue {
    /// When all of it has left.
    free: Cell<Instant>,
    busy: Cell<Duration>,
}

impl PortQueue {
    /// When the last bit of a frame has left that arrives now; `None` where the queue is full.
    pub(super) fn send(
        &self,
        now: Instant,
        frame_bytes: usize,
        line: Line,
        queue_bytes: u64,
    ) -> Option<Instant> {
        let wire_bytes = (frame_bytes + WIRE_BYTES) as u128;
        let rate = u128::from(line.bytes_per_second.max(1));
        let waits_bytes = self.free.get().since(now).as_nanos() * rate / 1_000_000_000;
        if waits_bytes + wire_bytes > u128::from(queue_bytes) {
            return None;
        }
        let time = Duration::from_nanos((wire_bytes * 1_000_000_000 / rate) as u64);
        self.free.set(now.max(self.free.get()) + time);
        self.busy.set(self.busy.get() + time);
        Some(self.free.get())
    }

    /// How long frames were on the wire.
    pub(super) fn busy(&self) -> Duration {
        self.busy.get()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_at_the_rate_of_the_line_with_all_that_ethernet_adds() {
        let (queue, start) = (PortQueue::default(), Instant::from_nanos(7));
        let last = (0..1000).map(|_| queue.send(start, 9014, Line::GIGABIT, 1 << 30)).last();
        // 9,000 bytes of payload and the 38 around them.
        let took = last.unwrap().unwrap().since(start).as_secs_f64();
        let rate = 1000.0 * 9038.0 / took;
        assert!((rate / 125e6 - 1.0).abs() < 1e-6, "{rate}");
        assert_eq!(queue.busy().as_secs_f64(), took);
    }

    #[test]
    fn a_full_queue_drops_and_takes_again_what_fits() {
        let (queue, line) = (PortQueue::default(), Line::GIGABIT);
        let start = Instant::from_nanos(1);
        let taken = (0..100).filter(|_| queue.send(start, 8976, line, 90_000).is_some()).count();
        assert_eq!(taken, 10);
        let one_left = start + Duration::from_micros(73);
        assert!(queue.send(one_left, 8976, line, 90_000).is_some());
        assert!(queue.send(one_left, 8976, line, 90_000).is_none());
    }
}

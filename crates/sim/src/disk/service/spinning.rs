//! One arm over a platter that turns.
//!
//! The head is at an angle that follows from the time, and each byte lies at an angle that follows from
//! its address. So what comes when its place has just gone by waits for a whole turn, as an append does
//! that is sent after the answer to the one before; what follows in the queue without a gap costs its
//! transfer alone. Of the commands in its queue the disk serves the one that it reaches first, and one
//! that was passed over for long. Writes that needn't be durable are answered from the cache and go to
//! the medium when there is nothing else to do, when it is half full, or when a flush waits.

use std::collections::VecDeque;
use std::time::Duration;

use block::Instant;

use super::{Answers, Job, Usage, Work, transfer};

/// Commands that a disk sees at a time, as native command queueing has them.
const SEEN_MAX: usize = 32;
/// A command that was passed over for so long is next.
const PASSED_OVER_MAX: Duration = Duration::from_millis(500);
/// The mean square root of the distance of two places anywhere, as a part of the largest.
const MEAN_ROOT: f64 = 8.0 / 15.0;

/// A disk with an arm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spinning {
    /// From anywhere to anywhere, on average.
    pub average_seek: Duration,
    /// From a track to the next. In between a seek grows with the square root of the distance.
    pub track_seek: Duration,
    /// One turn.
    pub revolution: Duration,
    /// What passes under the head.
    pub bytes_per_second: u64,
    /// What an answer takes to and through the interface. The arm doesn't wait for it.
    pub command: Duration,
    /// Writes in its memory that aren't on the medium yet, at most.
    pub cache_bytes: u64,
    /// What it reads on by itself behind a read, at most.
    pub read_ahead_bytes: u64,
}

impl Spinning {
    /// A common disk of 7,200 revolutions a minute; see [`super`].
    pub const HARD_DISK: Spinning = Spinning {
        average_seek: Duration::from_millis(8),
        track_seek: Duration::from_micros(300),
        revolution: Duration::from_nanos(8_333_333),
        bytes_per_second: 200_000_000,
        command: Duration::from_micros(50),
        cache_bytes: 64 << 20,
        read_ahead_bytes: 2 << 20,
    };

    fn track_bytes(&self) -> u64 {
        (u128::from(self.bytes_per_second) * self.revolution.as_nanos() / 1_000_000_000) as u64
    }

    /// How long the arm takes for a distance that is such a part of the disk.
    fn seek(&self, part: f64) -> Duration {
        let growth = self.average_seek.saturating_sub(self.track_seek).div_f64(MEAN_ROOT);
        self.track_seek + growth.mul_f64(part.clamp(0.0, 1.0).sqrt())
    }
}

/// A command that somebody waits for until the medium was reached.
struct Waiting<Token> {
    job: Job,
    token: Token,
    since: Instant,
}

/// A write that was answered and isn't on the medium yet.
struct Cached {
    number: u64,
    job: Job,
}

struct Flush<Token> {
    /// The number of the first cached write that it isn't about.
    until: u64,
    token: Token,
    since: Instant,
}

enum Current<Token> {
    Command(Token),
    Cached(Cached),
}

/// Operations on their way.
pub(crate) struct Queue<Token> {
    disk: Spinning,
    size_bytes: u64,
    /// Oldest first.
    waiting: VecDeque<Waiting<Token>>,
    /// Oldest first.
    cached: VecDeque<Cached>,
    cached_bytes: u64,
    next_cached: u64,
    /// Writes for which the cache has no room, oldest first.
    held: VecDeque<Waiting<Token>>,
    /// Oldest first.
    flushes: VecDeque<Flush<Token>>,
    current: Option<(Instant, Current<Token>)>,
    /// Behind the last byte that passed under the head.
    position: u64,
    /// When it was there.
    since: Instant,
    reads_ahead: bool,
    answers: Answers<Token>,
    usage: Usage,
}

impl<Token> Queue<Token> {
    pub(super) fn new(disk: Spinning, size_bytes: u64) -> Queue<Token> {
        Queue {
            disk,
            size_bytes: size_bytes.max(1),
            waiting: VecDeque::new(),
            cached: VecDeque::new(),
            cached_bytes: 0,
            next_cached: 0,
            held: VecDeque::new(),
            flushes: VecDeque::new(),
            current: None,
            position: 0,
            since: Instant::default(),
            reads_ahead: false,
            answers: Answers::new(),
            usage: Usage::default(),
        }
    }

    pub(super) fn submit(&mut self, now: Instant, job: Job, token: Token) {
        match job.work {
            Work::Read | Work::DurableWrite => {
                self.waiting.push_back(Waiting { job, token, since: now });
            }
            Work::Write => {
                self.held.push_back(Waiting { job, token, since: now });
                self.take_into_cache(now);
            }
            Work::Flush => {
                self.flushes.push_back(Flush { until: self.next_cached, token, since: now });
                self.answer_flushes(now);
            }
            Work::Nothing => self.answers.give(now + self.disk.command, token),
        }
        self.begin(now);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        let served = self.current.as_ref().map(|(end, _)| *end);
        served.into_iter().chain(self.answers.next()).min()
    }

    pub(super) fn take_answered(&mut self, now: Instant) -> Option<Token> {
        while let Some((end, current)) = self.current.take_if(|(end, _)| *end <= now) {
            match current {
                Current::Command(token) => self.answers.give(end + self.disk.command, token),
                Current::Cached(cached) => {
                    self.cached_bytes -= cached.job.len_bytes;
                    self.take_into_cache(end);
                    self.answer_flushes(end);
                }
            }
            self.begin(end);
        }
        self.answers.take(now)
    }

    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// A write that is larger than the whole cache has to go somewhere, too.
    fn take_into_cache(&mut self, now: Instant) {
        let size = self.disk.cache_bytes;
        let fits =
            |used: u64, write: &Waiting<Token>| used == 0 || used + write.job.len_bytes <= size;
        while let Some(Waiting { job, token, .. }) =
            self.held.pop_front_if(|write| fits(self.cached_bytes, write))
        {
            self.cached.push_back(Cached { number: self.next_cached, job });
            self.next_cached += 1;
            self.cached_bytes += job.len_bytes;
            self.answers.give(now + self.disk.command, token);
        }
    }

    fn answer_flushes(&mut self, now: Instant) {
        let current = match &self.current {
            Some((_, Current::Cached(cached))) => Some(cached.number),
            _ => None,
        };
        let oldest = self.cached.iter().map(|cached| cached.number).chain(current).min();
        let is_done = |until: u64| oldest.is_none_or(|oldest| oldest >= until);
        while let Some(flush) = self.flushes.pop_front_if(|flush| is_done(flush.until)) {
            self.answers.give(now + self.disk.command, flush.token);
        }
    }

    /// Lets the arm go to what it reaches first, if it is idle.
    fn begin(&mut self, now: Instant) {
        if self.current.is_some() {
            return;
        }
        let (commands, writes) = self.seen(now);
        let commands = self.waiting.iter().take(commands).map(|waiting| &waiting.job).enumerate();
        let command = commands.map(|(at, job)| (self.reach(now, job), at)).min();
        let writes = self.cached.iter().take(writes).map(|cached| &cached.job).enumerate();
        let write = writes.map(|(at, job)| (self.reach(now, job), at)).min();
        let (job, begin, current) = match (command, write) {
            (Some((begin, at)), write) if write.is_none_or(|write| begin <= write.0) => {
                let Some(waiting) = self.waiting.remove(at) else { return };
                (waiting.job, begin, Current::Command(waiting.token))
            }
            (_, Some((begin, at))) => {
                let Some(cached) = self.cached.remove(at) else { return };
                (cached.job, begin, Current::Cached(cached))
            }
            _ => return,
        };
        let time = transfer(job.len_bytes, self.disk.bytes_per_second);
        let end = now.max(begin + time);
        self.usage.busy += end.since(now);
        self.usage.positioning += begin.since(now);
        self.position = job.start_bytes + job.len_bytes;
        self.since = begin + time;
        self.reads_ahead = job.work == Work::Read;
        self.current = Some((end, current));
    }

    /// Among how many commands, and how many writes in the cache, the arm has its choice.
    fn seen(&self, now: Instant) -> (usize, usize) {
        let late = |since: &Instant| now.since(*since) > PASSED_OVER_MAX;
        let flush = self.flushes.front().map(|flush| flush.since);
        let held = self.held.front().map(|write| write.since);
        let write = flush.into_iter().chain(held).min().filter(late);
        let command = self.waiting.front().map(|waiting| waiting.since).filter(late);
        if command.is_some_and(|command| write.is_none_or(|write| command <= write)) {
            return (1, 0);
        }
        if write.is_some() && !self.cached.is_empty() {
            return (0, SEEN_MAX);
        }
        let writes_back = self.waiting.is_empty()
            || !self.flushes.is_empty()
            || self.cached_bytes > self.disk.cache_bytes / 2;
        (SEEN_MAX, if writes_back { SEEN_MAX } else { 0 })
    }

    /// When the first byte of `job` is under the head, or was, if it was read ahead.
    fn reach(&self, now: Instant, job: &Job) -> Instant {
        let turn = self.disk.revolution.as_nanos() as u64;
        if job.start_bytes == self.position {
            if job.work == Work::Read && self.reads_ahead {
                let most = transfer(self.disk.read_ahead_bytes, self.disk.bytes_per_second);
                let idle = now.since(self.since);
                return self.since + idle.saturating_sub(most);
            }
            let missed = now.since(self.since).as_nanos() as u64;
            return now + Duration::from_nanos(missed.next_multiple_of(turn) - missed);
        }
        let track = self.disk.track_bytes().max(1);
        let distance = job.start_bytes.abs_diff(self.position);
        let arrival = match distance < track {
            true => now,
            false => now + self.disk.seek(distance as f64 / self.size_bytes as f64),
        };
        let angle = arrival.as_nanos() % turn;
        let in_track = u128::from(job.start_bytes % track);
        let wanted = (in_track * u128::from(turn) / u128::from(track)) as u64 % turn;
        arrival + Duration::from_nanos((wanted + turn - angle) % turn)
    }
}

//! Requests on their way: which are unanswered, how long answers take, which count as lost.
//!
//! Each transmission has a tag of its own, which the target echoes; so every answer is a clean
//! measurement, also of a request that was sent more than once. A transmission may be of several frames,
//! in one direction or the other; how many are on their way is what windows bound.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrayvec::ArrayVec;
use block::Instant;

use super::paths::PathId;
use super::window::RoundTrip;

/// Requests whose answers take comparable time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answered from the server's memory.
    Quick,
    /// A read.
    Read,
    /// A write that may be answered at once.
    Write,
    /// A write that is answered when it is durable.
    Durable,
    /// Flushes, claims and discards: any time, in any order. Only the time-out tells of a loss.
    Slow,
}

const KINDS: [Kind; 5] = [Kind::Quick, Kind::Read, Kind::Write, Kind::Durable, Kind::Slow];

/// Transmissions of a request that are remembered to recognise their answers.
const TRANSMISSIONS_MAX: usize = 4;

/// Parts of an answer count as signs of life so often at most within a usual round trip.
const PARTS_COUNTED: u32 = 8;

/// One sending of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transmission {
    pub tag: u32,
    pub path: PathId,
    /// How many frames are on their way by it: to the server, or from there.
    pub frames: usize,
    pub at: Instant,
}

/// An unanswered request.
pub(crate) struct Flying<T> {
    /// What to send again, and what to do with the answer.
    pub what: T,
    pub kind: Kind,
    pub first_sent: Instant,
    /// Transmissions since there was progress.
    pub tries: u32,
    /// Where the last transmission went.
    pub path: PathId,
    /// Frames of the last transmission that are on their way still.
    pub frames: usize,
    /// And of the first one.
    held: usize,
    recent: ArrayVec<Transmission, TRANSMISSIONS_MAX>,
    /// The last transmission, or what came of the answer since.
    active: Instant,
    /// The transmission that the round trip was last measured of.
    measured: Option<u32>,
    deadline: Instant,
}

/// A request that has been answered.
pub(crate) struct Answered<T> {
    pub what: T,
    /// An earlier copy was answered, so the later ones were sent in vain: nothing had been lost.
    pub was_spurious: bool,
    /// The last copy was answered and no earlier one: those had been lost.
    pub was_lost: bool,
}

/// A request that a later one of its kind overtook.
struct Overtaken {
    number: u64,
    /// It counts as lost from here on.
    lost_at: Instant,
    /// Neither it nor one that was sent later is lost before.
    earliest: Instant,
}

/// All unanswered requests of a session, by number.
pub(crate) struct Flight<T> {
    requests: BTreeMap<u64, Flying<T>>,
    /// Of all of them on their way, and as they were when they were first sent.
    frames: usize,
    held: usize,
    deadlines: BTreeSet<(Instant, u64)>,
    kinds: [KindState; KINDS.len()],
    /// The round trip of the opening, until a kind has one of its own.
    opening: Option<Duration>,
}

#[derive(Default)]
struct KindState {
    round_trip: RoundTrip,
    /// When each unanswered request was sent last, or something of its answer came.
    sent: BTreeSet<(Instant, u64)>,
    /// When the newest answered transmission was sent.
    answered: Option<Instant>,
    /// When an answer told last whether something was sent again in vain. Others at the same time may have
    /// come in the same frame, and tell nothing more.
    judged: Option<Instant>,
}

impl<T> Flight<T> {
    /// Nothing on its way.
    pub fn new() -> Flight<T> {
        Flight {
            requests: BTreeMap::new(),
            frames: 0,
            held: 0,
            deadlines: BTreeSet::new(),
            kinds: Default::default(),
            opening: None,
        }
    }

    /// Takes the round trip of an opening as a first idea.
    pub fn set_opening_round_trip(&mut self, round_trip: Duration) {
        self.opening = Some(round_trip);
    }

    /// A request was sent for the first time.
    pub fn sent(&mut self, number: u64, kind: Kind, what: T, transmission: Transmission) {
        let Transmission { path, at, .. } = transmission;
        let flying = Flying {
            what,
            kind,
            first_sent: at,
            tries: 0,
            path,
            frames: 0,
            held: transmission.frames,
            recent: ArrayVec::new(),
            active: at,
            measured: None,
            deadline: at,
        };
        self.held += flying.held;
        self.requests.insert(number, flying);
        self.sent_again(number, transmission);
    }

    /// A request was sent once more.
    pub fn sent_again(&mut self, number: u64, transmission: Transmission) {
        let Some(request) = self.requests.get_mut(&number) else { return };
        request.tries += 1;
        request.path = transmission.path;
        if request.recent.is_full() {
            request.recent.remove(0);
        }
        request.recent.push(transmission);
        self.frames = self.frames - request.frames + transmission.frames;
        request.frames = transmission.frames;
        self.set_active(number, transmission.at);
    }

    /// The server has more of a request, or we of its answer, than at its last transmission.
    pub fn progressed(&mut self, number: u64) {
        if let Some(request) = self.requests.get_mut(&number) {
            request.tries = 0;
        }
    }

    /// A frame of the answer came, to the transmission with this tag, and others are to come.
    pub fn part_came(&mut self, number: u64, tag: u32, now: Instant) {
        let Some(request) = self.requests.get_mut(&number) else { return };
        request.tries = 0;
        // The last one says that nothing is on its way any more.
        let fewer = usize::from(request.frames > 1);
        request.frames -= fewer;
        self.frames -= fewer;
        let usual = self.kinds[request.kind as usize].round_trip.smoothed().unwrap_or_default();
        let is_news = now >= request.active + usual / PARTS_COUNTED;
        self.measure(number, tag, now);
        if is_news {
            self.set_active(number, now);
        }
    }

    /// Whether a request's last transmission has this tag.
    pub fn is_latest(&self, number: u64, tag: u32) -> bool {
        let latest = self.requests.get(&number).and_then(|request| request.recent.last());
        latest.is_some_and(|latest| latest.tag == tag)
    }

    /// From now on a request has its time again.
    fn set_active(&mut self, number: u64, now: Instant) {
        let Some(request) = self.requests.get_mut(&number) else { return };
        let kind = &mut self.kinds[request.kind as usize];
        self.deadlines.remove(&(request.deadline, number));
        kind.sent.remove(&(request.active, number));
        request.active = now;
        request.deadline = now + kind.round_trip.timeout(request.tries, self.opening);
        kind.sent.insert((now, number));
        self.deadlines.insert((request.deadline, number));
    }

    /// Takes the round trip of a transmission, once.
    fn measure(&mut self, number: u64, tag: u32, now: Instant) {
        let Some(request) = self.requests.get_mut(&number) else { return };
        if request.measured == Some(tag) {
            return;
        }
        let Some(sent) = request.recent.iter().find(|sent| sent.tag == tag) else { return };
        request.measured = Some(tag);
        let kind = &mut self.kinds[request.kind as usize];
        kind.round_trip.measure(now.since(sent.at));
        kind.answered = kind.answered.max(Some(sent.at));
    }

    /// A request was answered, to the transmission with this tag. `None` when it was before.
    pub fn answered(&mut self, number: u64, tag: u32, now: Instant) -> Option<Answered<T>> {
        self.measure(number, tag, now);
        let request = self.requests.remove(&number)?;
        self.forget(number, &request);
        let matching = request.recent.iter().position(|sent| sent.tag == tag);
        let was_spurious = matching.is_some_and(|index| index + 1 < request.recent.len());
        let was_lost = matching.is_some() && !was_spurious && request.recent.len() > 1;
        let kind = &mut self.kinds[request.kind as usize];
        if (was_spurious || was_lost) && kind.judged.replace(now) != Some(now) {
            match was_spurious {
                true => kind.round_trip.was_spurious(),
                false => kind.round_trip.was_lost(),
            }
        }
        Some(Answered { what: request.what, was_spurious, was_lost })
    }

    /// The requests that count as lost now, oldest number first.
    pub fn lost(&self, now: Instant) -> Vec<u64> {
        let mut lost: BTreeSet<u64> = self
            .deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .map(|(_, number)| *number)
            .collect();
        for kind in KINDS {
            let could_be = self.overtaken(kind).take_while(|overtaken| overtaken.earliest <= now);
            let is_lost = could_be.filter(|overtaken| overtaken.lost_at <= now);
            lost.extend(is_lost.map(|overtaken| overtaken.number));
        }
        lost.into_iter().collect()
    }

    /// When [`Flight::lost`] may tell something new.
    pub fn next_deadline(&self) -> Option<Instant> {
        let mut next = self.deadlines.first().map(|(deadline, _)| *deadline);
        for kind in KINDS {
            for overtaken in self.overtaken(kind) {
                // Of hundreds on their way mostly the first one tells.
                if next.is_some_and(|next| next <= overtaken.earliest) {
                    break;
                }
                next = Some(next.map_or(overtaken.lost_at, |next| next.min(overtaken.lost_at)));
            }
        }
        next
    }

    /// The request of this number.
    pub fn get(&self, number: u64) -> Option<&Flying<T>> {
        self.requests.get(&number)
    }

    /// The same, to change what it carries.
    pub fn get_mut(&mut self, number: u64) -> Option<&mut Flying<T>> {
        self.requests.get_mut(&number)
    }

    /// The lowest unanswered number.
    pub fn lowest(&self) -> Option<u64> {
        self.requests.first_key_value().map(|(number, _)| *number)
    }

    /// When the longest unanswered request was sent for the first time.
    pub fn oldest(&self) -> Option<Instant> {
        // Numbers are given in order of the first transmission.
        self.requests.first_key_value().map(|(_, request)| request.first_sent)
    }

    /// How many frames of them are on their way.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// How many they were when they were first sent: a measure of what the server has to do.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether all are answered.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// What is known about the round trip of a kind.
    pub fn round_trip(&self, kind: Kind) -> &RoundTrip {
        &self.kinds[kind as usize].round_trip
    }

    /// Gives up on all, in order of their numbers.
    pub fn take_all(&mut self) -> Vec<T> {
        (self.frames, self.held) = (0, 0);
        self.deadlines.clear();
        self.kinds.iter_mut().for_each(|kind| kind.sent.clear());
        std::mem::take(&mut self.requests).into_values().map(|request| request.what).collect()
    }

    /// Requests that later ones of their kind overtook, in order of their last sign of life.
    fn overtaken(&self, kind: Kind) -> impl Iterator<Item = Overtaken> + '_ {
        let state = &self.kinds[kind as usize];
        let answered = if kind == Kind::Slow { None } else { state.answered };
        let overtaken = state.sent.iter().take_while(move |(at, _)| Some(*at) < answered);
        let least = state.round_trip.overtaken_timeout(1);
        overtaken.filter_map(move |(at, number)| {
            let tries = self.requests.get(number)?.tries;
            let lost_at = *at + state.round_trip.overtaken_timeout(tries)?;
            Some(Overtaken { number: *number, earliest: *at + least?, lost_at })
        })
    }

    fn forget(&mut self, number: u64, request: &Flying<T>) {
        self.frames -= request.frames;
        self.held -= request.held;
        self.deadlines.remove(&(request.deadline, number));
        self.kinds[request.kind as usize].sent.remove(&(request.active, number));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use aoe_wire::{MacAddr, PortId};

    const PATH: PathId = PathId { port: PortId(1), target: MacAddr([1; 6]) };

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(micros * 1000)
    }

    fn by(tag: u32, micros: u64) -> Transmission {
        Transmission { tag, path: PATH, frames: 1, at: at(micros) }
    }

    #[test]
    fn what_was_overtaken_is_lost_within_a_round_trip() {
        let mut flight = Flight::new();
        for number in 1..=20 {
            flight.sent(number, Kind::Read, (), by(number as u32, number * 10));
            flight.answered(number, number as u32, at(number * 10 + 100)).unwrap();
        }
        let usual = flight.round_trip(Kind::Read).smoothed();
        assert_eq!(usual, Some(Duration::from_micros(100)));
        flight.sent(21, Kind::Read, (), by(21, 1000));
        flight.sent(22, Kind::Slow, (), by(22, 1000));
        flight.sent(23, Kind::Read, (), by(23, 1010));
        assert!(flight.lost(at(1200)).is_empty(), "nothing later was answered yet");
        flight.answered(23, 23, at(1110)).unwrap();
        assert_eq!(flight.lost(at(1200)), [21]);
        flight.sent_again(21, by(24, 1200));
        assert!(flight.lost(at(1300)).is_empty());
        assert!(flight.answered(21, 21, at(1300)).unwrap().was_spurious);
        assert!(flight.answered(21, 24, at(1310)).is_none());
        assert_eq!(flight.lowest(), Some(22));
    }

    /// One frame that was late, or lost, is one sign, however many messages it had.
    #[test]
    fn answers_that_come_together_are_one_sign() {
        let mut flight = Flight::new();
        let slack_after = |flight: &mut Flight<()>, first: u64, tag: u32, micros: u64| {
            for number in first..first + 8 {
                flight.sent(number, Kind::Read, (), by(1, 0));
                flight.sent_again(number, by(2, 30_000));
                assert!(flight.answered(number, tag, at(micros)).is_some());
            }
            flight.round_trip(Kind::Read).slack()
        };
        assert_eq!(slack_after(&mut flight, 0, 1, 31_000), 1);
        assert_eq!(slack_after(&mut flight, 8, 1, 32_000), 2);
        assert_eq!(slack_after(&mut flight, 16, 2, 33_000), 1);
    }

    #[test]
    fn a_lone_request_is_lost_by_time_and_ever_later() {
        let mut flight = Flight::new();
        flight.sent(1, Kind::Write, "data", by(1, 0));
        let first = flight.next_deadline().unwrap();
        assert_eq!(flight.lost(first), [1]);
        flight.sent_again(1, Transmission { at: first, ..by(2, 0) });
        let second = flight.next_deadline().unwrap();
        assert!(second.since(first) > first.since(at(0)));
        assert_eq!(flight.take_all(), ["data"]);
        assert_eq!(flight.next_deadline(), None);
        assert!(flight.is_empty());
    }

    /// While parts of an answer come nothing is lost; the round trip is that of the first.
    #[test]
    fn parts_of_an_answer_are_signs_of_life() {
        let mut flight = Flight::new();
        let many = |tag, micros| Transmission { frames: 100, ..by(tag, micros) };
        flight.sent(1, Kind::Read, (), many(1, 0));
        flight.sent(2, Kind::Write, (), by(2, 0));
        assert_eq!(flight.frames(), 101);
        for part in 0..50 {
            let now = 200 + part * 1000;
            assert!(!flight.lost(at(now)).contains(&1), "{now}");
            flight.part_came(1, 1, at(now));
        }
        assert_eq!(flight.round_trip(Kind::Read).smoothed(), Some(Duration::from_micros(200)));
        assert_eq!(flight.frames(), 51);
        assert!(!flight.lost(at(54_000)).contains(&1) && flight.lost(at(55_000)).contains(&1));
        // What is asked for once more is all that is on its way.
        flight.sent_again(1, Transmission { frames: 3, ..by(3, 55_000) });
        assert_eq!((flight.frames(), flight.get(1).unwrap().tries), (4, 1));
        assert!(flight.is_latest(1, 3) && !flight.is_latest(1, 1));
        for _ in 0..9 {
            flight.part_came(1, 3, at(55_100));
        }
        assert_eq!((flight.frames(), flight.held()), (2, 101), "the last is to come");
        assert!(flight.answered(1, 1, at(55_200)).unwrap().was_spurious);
        assert_eq!((flight.frames(), flight.held()), (1, 1));
        flight.take_all();
        assert_eq!((flight.frames(), flight.held()), (0, 0));
    }
}

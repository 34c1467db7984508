//! The client of a sequenced session: one disk of our own target, whatever happens in between.
//!
//! | state   | what it means                                              | ends by                     |
//! |---------|------------------------------------------------------------|-----------------------------|
//! | opening | HELLO and OPEN are tried on all paths                      | the export's description    |
//! | open    | requests run                                               | no-session, restart, loss   |
//! | closed  | the owner is gone                                          | –                           |
//!
//! "Lost" is no state of its own but a judgement: nothing has answered for `lost_after` while
//! something was wanted. Then every operation fails, and an opening is tried until the target is
//! back. A disk that came back always has a new session, and a target answers OPEN only when
//! everything accepted before has completed: so no late frame of the old one can still execute.
//!
//! Operations that were on their way when a session ended are sent again in the next one if the
//! target's instance is the same. That is harmless even when they had been executed: nothing that
//! overlaps them was sent since. Under another instance they fail with `Restarted`; those that only
//! look are repeated. **Nothing is changed on an instance that wasn't claimed by whoever uses it**: a machine
//! that found its disks in another order has another one of the same owner behind this address.

use std::rc::Rc;

use block::{
    Claim, DeviceEvent, DurabilityClass, Epoch, Geometry, Instance, Instant, IoError, Operation,
    Outcome,
};
use seal::{Identity, PublicKey};

use super::client::{Client, Random, TRANSFER_BYTES_MAX, outcome_by_range};
use super::discovery::is_same_export;
use super::link::{Link, Verdict};
use super::opening::{Message, Opened, Opening, Progress, Unfit};
use super::operations::is_change;
use super::options::SessionOptions;
use super::outlet::Traffic;
use super::paths::PathId;
use super::request::Caller;
use super::statistics::Statistics;
use super::told::Told;
use aoe_wire::{Command, ExportInfo, ParseError, PortId, SessionReply, Status};

/// More sessions than this that end before they answered anything are as good as no answer.
const FRUITLESS_MAX: u32 = 8;
/// An opening that lasts this many times `lost_after` is as good as no answer, whatever is heard.
const OPENING_LOST_AFTERS: u32 = 3;

enum State {
    Opening(Opening),
    Open(Box<Link>),
    Closed,
}

/// The client's side of a session disk. See [`Client`] for how to drive it.
pub struct Session {
    options: SessionOptions,
    identity: Option<Rc<Identity>>,
    random: Random,
    state: State,
    traffic: Traffic,
    claim: Option<Claim>,
    /// That was for a former instance.
    is_unclaimed: bool,
    /// As an observer we read all that is on a medium whose owner is silent.
    looks_inside: bool,
    export: Option<ExportInfo>,
    /// The key of the machine that has it, once one was proved: nobody else has this disk.
    node_key: Option<PublicKey>,
    told: Option<Told>,
    /// The highest epoch that an answer of this session has named.
    highest: Epoch,
    /// The instance that callers know.
    instance: Option<Instance>,
    /// That which the target named last.
    opened_instance: Option<Instance>,
    /// The latest that the target's clock was known to be, before the present session.
    clock: Instant,
    /// How often the target's clock went back. A target that was rolled back with its whole memory
    /// doesn't know it and keeps its instance: this number makes it another one for our callers.
    rollbacks: u64,
    is_lost: bool,
    /// What opened last was another disk.
    met_another: bool,
    /// Why the target refuses to open.
    denied: Option<IoError>,
    /// Who answers isn't, or doesn't offer, what we speak with.
    unfit: Option<Unfit>,
    /// Room for what a sealed message says.
    opened: Vec<u8>,
    heard: Option<Instant>,
    /// Sessions in a row that ended before they answered anything.
    fruitless: u32,
    /// Since when something is wanted without a pause.
    wanting_since: Option<Instant>,
    /// When we had a turn last.
    turned: Instant,
    /// When we were ourselves stopped until, last: silence from before says nothing about the target.
    resumed: Instant,
}

impl Session {
    /// A disk that isn't open yet; it opens as soon as it has a port and a path, as who we are if we have a key.
    pub fn new(
        now: Instant,
        options: SessionOptions,
        mut random: Random,
        identity: Option<Rc<Identity>>,
    ) -> Session {
        let first_tag = random() as u32;
        let opening =
            Opening::new(options.address, options.incarnation, now, false, random.as_mut())
                .with_newest(options.newest)
                .with_identity(identity.clone());
        Session {
            options,
            identity,
            random,
            state: State::Opening(opening),
            traffic: Traffic::new(options.address, first_tag),
            claim: None,
            looks_inside: false,
            export: None,
            node_key: None,
            told: None,
            highest: Epoch::OBSERVER,
            instance: None,
            opened_instance: None,
            clock: Instant::default(),
            rollbacks: 0,
            is_lost: false,
            is_unclaimed: false,
            met_another: false,
            denied: None,
            unfit: None,
            opened: Vec::new(),
            heard: None,
            fruitless: 0,
            wanting_since: None,
            turned: now,
            resumed: now,
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    fn epoch(&self) -> Epoch {
        self.claim.as_ref().map_or(Epoch::OBSERVER, |claim| claim.epoch)
    }

    /// Whether there may be something to do now.
    fn handle_reply(
        &mut self,
        now: Instant,
        path: PathId,
        reply: &SessionReply,
        message: Message<'_>,
    ) -> bool {
        let hint_after = self.options.lost_after / 2;
        match &mut self.state {
            State::Opening(opening) => {
                match opening.handle_reply(now, reply, message, self.random.as_mut()) {
                    Progress::Unfit(unfit) => {
                        if self.unfit.replace(unfit) != Some(unfit) {
                            tracing::warn!("{} isn't opened: {unfit}", self.options.address);
                        }
                    }
                    Progress::Stale => self.traffic.statistics.late_replies += 1,
                    Progress::Heard => self.note_heard(now, path),
                    Progress::Refused(error) => {
                        self.note_heard(now, path);
                        self.deny(now, error);
                    }
                    Progress::Opened(opened) => {
                        self.note_heard(now, path);
                        self.open(now, path, *opened);
                    }
                }
            }
            State::Open(link) if link.is_sealed() && !reply.seal.is_present() => {
                // Anybody can say so. It is believed of a target that was asked, and answers nothing genuine: one that
                // has forgotten its keys can't.
                let silent = link.oldest().is_some_and(|asked| {
                    let since = self.heard.map_or(asked, |heard| heard.max(asked));
                    now.since(since) >= hint_after
                });
                match link.is_about(reply) && reply.status == Status::NoSession && silent {
                    true => self.reopen(now),
                    false => self.traffic.statistics.forged_replies += 1,
                }
            }
            State::Open(link) => {
                let mut opened = std::mem::take(&mut self.opened);
                let verdict = match link.open(reply, message, &mut opened) {
                    Ok(payload) => link.handle_reply(now, path, reply, payload, &mut self.traffic),
                    Err(verdict) => verdict,
                };
                self.opened = opened;
                if let Some(told) = link.take_told() {
                    self.told = Some(told.or_newer(self.told));
                }
                match verdict {
                    Verdict::Late => self.traffic.statistics.late_replies += 1,
                    Verdict::Malformed => self.traffic.statistics.malformed_replies += 1,
                    Verdict::Forged => self.traffic.statistics.forged_replies += 1,
                    Verdict::Fine => self.note_progress(now, reply.epoch),
                    Verdict::Part => {
                        self.note_progress(now, reply.epoch);
                        return false;
                    }
                    Verdict::Claimed(claim) => {
                        self.note_progress(now, reply.epoch);
                        // Who has shown a grant with it stays an observer.
                        self.claim = (claim.epoch != Epoch::OBSERVER).then(|| claim.to_repeat());
                        self.is_unclaimed = false;
                    }
                    Verdict::Reopen => self.reopen(now),
                    Verdict::RolledBack => {
                        self.rollbacks += 1;
                        self.reopen(now);
                    }
                    Verdict::Gone => self.lose(now),
                }
            }
            State::Closed => self.traffic.statistics.late_replies += 1,
        }
        true
    }

    fn note_heard(&mut self, now: Instant, path: PathId) {
        self.heard = Some(now);
        self.traffic.outlet.paths.heard(path, now, 0);
        self.traffic.outlet.paths.prefer(path);
    }

    fn open(&mut self, now: Instant, path: PathId, opened: Opened) {
        if let Some(known) = &self.export {
            let (known_as, opened_as) = ((known, self.node_key), (&opened.export, opened.node_key));
            if !is_same_export(known_as, opened_as) {
                // Somebody else has this address now. What we hold isn't on that disk.
                self.traffic.statistics.identity_conflicts += 1;
                self.met_another = true;
                self.traffic.outlet.paths.remove(path);
                self.start_opening(now);
                return;
            }
            if known.sectors != opened.export.sectors {
                self.traffic.events.push_back(DeviceEvent::Resized);
            }
        }
        // Of a target that was rolled back with its memory the answers of a session count as repeated, so it shows here.
        if self.opened_instance == Some(opened.instance) && opened.clock < self.clock {
            self.rollbacks += 1;
        }
        (self.opened_instance, self.clock) = (Some(opened.instance), opened.clock);
        let shown = Instance(opened.instance.0.wrapping_add(self.rollbacks));
        let holder = opened.export.holder;
        // A higher epoch of our own may be a claim of ours whose answer was lost.
        let deposed = self
            .claim
            .as_ref()
            .is_some_and(|claim| holder.epoch >= claim.epoch && holder.owner != claim.owner);
        if self.instance != Some(shown) {
            let error = match deposed {
                true => IoError::Fenced { highest: holder.epoch },
                false => IoError::Restarted { now: shown },
            };
            self.traffic.operations.restart(error);
            self.is_unclaimed = self.claim.is_some() && self.instance.is_some();
        }
        if self.instance != Some(shown) || self.is_lost {
            self.traffic.events.push_back(DeviceEvent::Back(shown));
        }
        self.traffic.outlet.paths.told(path, opened.takes);
        self.traffic.outlet.paths.confine(opened.is_confined);
        let (export, clock) = (opened.export.clone(), opened.clock);
        self.node_key = self.node_key.or(opened.node_key);
        let mut link = Link::new(opened, shown, self.options.window_max);
        let is_heard = |claim: &Claim| self.is_unclaimed || holder.epoch >= claim.epoch;
        if let Some(claim) = self.claim.clone().filter(|claim| !is_heard(claim)) {
            link.reclaim(now, claim, &mut self.traffic.outlet);
        }
        self.export = Some(export);
        self.told = Some(Told::new(holder, clock, now));
        self.highest = holder.epoch;
        self.instance = Some(shown);
        self.is_lost = false;
        self.met_another = false;
        self.denied = None;
        self.unfit = None;
        self.state = State::Open(Box::new(link));
    }

    /// The session is no more; its target lives.
    fn reopen(&mut self, now: Instant) {
        self.heard = Some(now);
        self.traffic.statistics.reopenings += 1;
        self.fruitless += 1;
        if self.fruitless > FRUITLESS_MAX {
            self.lose(now);
        } else {
            self.start_opening(now);
        }
    }

    fn note_progress(&mut self, now: Instant, highest: Epoch) {
        self.heard = Some(now);
        self.highest = self.highest.max(highest);
        self.fruitless = 0;
    }

    fn start_opening(&mut self, now: Instant) {
        if let Some(link) = self.take_link(now) {
            link.give_up(&mut self.traffic.operations);
        }
    }

    /// Begins to open; what was open until now is the caller's to end.
    fn take_link(&mut self, now: Instant) -> Option<Box<Link>> {
        let opening = Opening::new(
            self.options.address,
            self.options.incarnation,
            now,
            self.is_lost,
            self.random.as_mut(),
        )
        .with_newest(self.options.newest)
        .with_identity(self.identity.clone());
        let before = std::mem::replace(&mut self.state, State::Opening(opening));
        let State::Open(link) = before else { return None };
        self.clock = self.clock.max(link.clock());
        link.describe(&mut self.traffic.statistics);
        Some(link)
    }

    fn deny(&mut self, now: Instant, error: IoError) {
        if error != IoError::Lost {
            self.denied = Some(error);
            self.traffic.operations.fail_all(error);
        } else if !self.is_lost {
            self.lose(now);
        }
    }

    fn lose(&mut self, now: Instant) {
        self.is_lost = true;
        self.denied = None;
        self.fruitless = 0;
        self.traffic.statistics.losses += 1;
        self.start_opening(now);
        if let State::Opening(opening) = &mut self.state {
            opening.slow_down(now);
        }
        self.traffic.operations.fail_all(IoError::Lost);
        self.traffic.events.push_back(DeviceEvent::Lost);
    }

    /// When the target counts as lost if nothing is heard.
    fn lost_deadline(&self) -> Option<Instant> {
        let since = self.wanting_since?.max(self.resumed);
        let silence = self.heard.map_or(since, |heard| heard.max(since)) + self.options.lost_after;
        Some(match &self.state {
            State::Opening(opening) => {
                let started = opening.started().max(self.resumed);
                silence.min(started + self.options.lost_after * OPENING_LOST_AFTERS)
            }
            _ => silence,
        })
    }

    /// When to ask the target whether it lives.
    fn probe_deadline(&self) -> Option<Instant> {
        let State::Open(link) = &self.state else { return None };
        if !link.can_probe() {
            return None;
        }
        let heard = self.heard.unwrap_or_default();
        Some(match link.oldest() {
            Some(oldest) => heard.max(oldest) + self.options.lost_after / 4,
            None => heard + self.options.keepalive_after,
        })
    }

    fn stuck_deadline(&self) -> Option<Instant> {
        let State::Open(link) = &self.state else { return None };
        link.oldest().map(|oldest| oldest.max(self.resumed) + self.options.stuck_after)
    }

    /// A process that was stopped (by a debugger, a hypervisor, a machine in trouble) finds all its
    /// timers due and the answers still unread. It would take every disk at once for lost.
    fn note_pause(&mut self, now: Instant) {
        let long = self.options.lost_after / 4;
        let is_late = self.poll_timeout().is_some_and(|due| now > due + long);
        // A timer that is late although we had turns is no sign of a pause.
        if is_late && now > self.turned + long {
            self.resumed = now;
        }
        self.turned = now;
    }

    fn note_wanting(&mut self, now: Instant) {
        let wanting = !self.is_lost
            && match &self.state {
                State::Opening(_) => true,
                State::Open(link) => !link.is_idle() || !self.traffic.operations.is_empty(),
                State::Closed => false,
            };
        self.wanting_since = wanting.then(|| self.wanting_since.unwrap_or(now));
    }
}

impl Client for Session {
    fn has_sessions(&self) -> bool {
        true
    }

    fn is_known(&self) -> bool {
        self.export.is_some()
    }

    fn defends_against(&self, _: PathId) -> bool {
        self.is_open()
    }

    fn met_another(&self) -> bool {
        self.met_another
    }

    fn node_key(&self) -> Option<PublicKey> {
        self.node_key
    }

    fn is_claimed(&self) -> bool {
        self.claim.is_some()
    }

    fn is_confined(&self) -> bool {
        self.traffic.outlet.paths.is_confined()
    }

    fn export(&self, now: Instant) -> Option<ExportInfo> {
        let holder = self.told?.holder(now);
        Some(ExportInfo { holder, ..self.export.clone()? })
    }

    fn traffic(&mut self) -> &mut Traffic {
        &mut self.traffic
    }

    fn geometry(&self) -> Geometry {
        let export = self.export.as_ref();
        Geometry {
            sectors: export.map_or(0, |export| export.sectors),
            physical_block_bytes: export.map_or(512, |export| export.physical_block_bytes),
            max_transfer_bytes: TRANSFER_BYTES_MAX,
            read_only: export.is_some_and(|export| export.read_only),
            class: DurabilityClass::Durable,
        }
    }

    fn immediate_outcome(&self, operation: &Operation) -> Option<Outcome> {
        if matches!(self.state, State::Closed) || self.is_lost {
            return Some(Err(self.denied.unwrap_or(IoError::Lost)));
        }
        if let Some(error) = self.denied {
            return Some(Err(error));
        }
        if let Some(now) = self.instance.filter(|_| self.is_unclaimed)
            && is_change(operation)
        {
            return Some(Err(IoError::Restarted { now }));
        }
        let sectors = self.export.as_ref().map(|export| export.sectors);
        outcome_by_range(operation, sectors, self.instance)
    }

    fn add_path(&mut self, now: Instant, path: PathId) {
        let is_new = self.traffic.outlet.paths.add(path);
        if let State::Opening(opening) = &mut self.state
            && (is_new || self.is_lost)
        {
            self.traffic.outlet.paths.prefer(path);
            opening.hurry(now);
        }
        self.advance(now);
    }

    /// With another session, since a target answers its opening only when nothing of the former one can
    /// be executed any more. So what failed here doesn't happen later.
    fn disown(&mut self, now: Instant) {
        if self.claim.is_none() && !self.traffic.operations.is_claiming() {
            return;
        }
        let claimed = self.claim.take().map_or(Epoch::OBSERVER, |claim| claim.epoch);
        self.is_unclaimed = false;
        self.traffic.outlet.clear();
        if self.is_open()
            && let Some(link) = self.take_link(now)
        {
            // Spares the target the flush that taking the place of an open session costs.
            link.close(now, &mut self.traffic.outlet);
        }
        self.traffic.operations.fail_all(IoError::Fenced { highest: self.highest.max(claimed) });
        self.advance(now);
    }

    fn look_inside(&mut self, looks: bool) {
        self.looks_inside = looks;
    }

    fn close(&mut self, now: Instant) {
        if let State::Open(link) = std::mem::replace(&mut self.state, State::Closed) {
            link.close(now, &mut self.traffic.outlet);
        }
        self.traffic.operations.fail_all(IoError::Lost);
        self.note_wanting(now);
    }

    fn handle_frame(&mut self, now: Instant, port: PortId, frame: &[u8]) {
        match SessionReply::parse(frame) {
            Ok((reply, payload)) => {
                if let Some(path) = self.traffic.path_of(port, &reply.header) {
                    let is_local = self.traffic.outlet.paths.is_local(path);
                    let message = Message { frame, payload, is_local };
                    if !self.handle_reply(now, path, &reply, message) {
                        return;
                    }
                }
            }
            Err(ParseError::WrongKind) => {}
            Err(ParseError::Checksum) => self.traffic.statistics.checksum_errors += 1,
            Err(_) => self.traffic.statistics.malformed_replies += 1,
        }
        self.advance(now);
    }

    fn advance(&mut self, now: Instant) {
        self.note_pause(now);
        self.note_wanting(now);
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        if is_due(self.lost_deadline()) || is_due(self.stuck_deadline()) {
            self.lose(now);
        }
        if let State::Open(link) = &mut self.state
            && link.repeat_lost(now, &mut self.traffic)
        {
            self.traffic.statistics.reopenings += 1;
            self.start_opening(now);
        }
        let must_probe = is_due(self.probe_deadline());
        let caller = Caller { epoch: self.epoch(), looks_inside: self.looks_inside };
        match &mut self.state {
            State::Opening(opening) if opening.deadline() <= now => {
                self.traffic.outlet.paths.confine(opening.is_confined());
                if opening.tries() > 0 {
                    self.traffic.outlet.paths.rotate();
                }
                match self.traffic.outlet.header(Command::Session) {
                    Some((path, header)) => {
                        let is_local = self.traffic.outlet.paths.is_local(path);
                        let frame = opening.transmit(now, header, is_local, self.random.as_mut());
                        self.traffic.outlet.push(path, frame);
                    }
                    None => opening.pause(now),
                }
            }
            State::Opening(_) | State::Closed => {}
            State::Open(link) => {
                if must_probe {
                    link.probe(now, &mut self.traffic.outlet);
                }
                link.fill(now, caller, &mut self.traffic);
            }
        }
        self.note_wanting(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let (opening, link) = match &self.state {
            State::Opening(opening) => (Some(opening.deadline()), None),
            // Without a path nothing can be repeated: whoever brings one gives us a turn.
            State::Open(_) if self.traffic.outlet.paths.active().is_none() => (None, None),
            State::Open(link) => (None, link.deadline()),
            State::Closed => (None, None),
        };
        [opening, link, self.lost_deadline(), self.probe_deadline(), self.stuck_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    fn statistics(&self) -> Statistics {
        let mut statistics = self.traffic.statistics;
        if let State::Open(link) = &self.state {
            link.describe(&mut statistics);
        }
        statistics
    }
}

#[cfg(test)]
#[path = "disown_tests.rs"]
mod disown_tests;
#[cfg(test)]
#[path = "fragment_tests.rs"]
mod fragment_tests;
#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;

//! Asks one target on one path what it is: ours (it opens a session) or plain (it answers IDENTIFY).
//!
//! The session is opened under an incarnation made up for the purpose and closed at once, so that
//! the disk's own session isn't disturbed: a target ends the former session of an incarnation when it
//! opens another.

use std::rc::Rc;
use std::time::Duration;

use block::{Buffer, Instant, IoError, Lba};
use seal::{Identity, PublicKey, Security, least_of};

use super::client::Random;
use super::opening::{Message, Opened, Opening, Progress, Unfit, random16};
use super::outlet::Outlet;
use super::paths::PathId;
use super::sealed::Seals;
use aoe_wire::{
    AtaCommand, AtaReply, AtaRequest, Command, ExportInfo, Header, Identify, Incarnation,
    Operation, SessionReply, SessionRequest, ShelfSlot,
};

/// HELLOs without any answer after which a target is asked as a plain one.
const HELLO_TRIES: u32 = 5;
/// IDENTIFYs without an answer after which there is nobody.
const IDENTIFY_TRIES: u32 = 4;
const IDENTIFY_INTERVAL: Duration = Duration::from_millis(100);
/// No probe takes longer, whatever is answered in between.
const PROBE_MAX: Duration = Duration::from_secs(5);

/// What a target turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// It speaks our session.
    Session {
        /// What it exports.
        export: ExportInfo,
        /// The key of its machine, if it proved one; what it says of a program of this machine.
        node_key: Option<PublicKey>,
    },
    /// It speaks plain AoE.
    Plain(Identify),
    /// It speaks our session, but not with us.
    Refused(IoError),
    /// It speaks our session, and we don't with it.
    Unfit(Unfit),
}

/// A target being asked.
pub(crate) struct Probe {
    path: PathId,
    started: Instant,
    /// It has answered HELLO.
    is_ours: bool,
    /// Nobody is spoken with who has no key, but programs of this machine.
    demands_keys: bool,
    /// Why who answered isn't spoken with.
    unfit: Option<Unfit>,
    stage: Stage,
}

enum Stage {
    Opening(Opening),
    Identify { tag: Option<u32>, tries: u32, next: Instant },
}

/// How a probe stands.
pub(crate) enum ProbeState {
    Running,
    Done(Box<TargetKind>),
    Nobody,
}

impl Probe {
    /// Begins now.
    pub fn new(
        now: Instant,
        address: ShelfSlot,
        path: PathId,
        identity: Option<Rc<Identity>>,
        random: &mut Random,
    ) -> Probe {
        let incarnation = Incarnation(random16(random.as_mut()));
        let demands_keys = least_of(identity.as_deref()) > Security::None;
        let opening =
            Opening::new(address, incarnation, now, false, random.as_mut()).with_identity(identity);
        let stage = Stage::Opening(opening);
        Probe { path, started: now, is_ours: false, demands_keys, unfit: None, stage }
    }

    /// When [`Probe::advance`] has something to do.
    pub fn deadline(&self) -> Instant {
        match &self.stage {
            Stage::Opening(opening) => opening.deadline(),
            Stage::Identify { next, .. } => *next,
        }
    }

    /// Sends what is due.
    pub fn advance(
        &mut self,
        now: Instant,
        outlet: &mut Outlet,
        random: &mut Random,
    ) -> ProbeState {
        if now >= self.started + PROBE_MAX {
            return self.end();
        }
        if now < self.deadline() {
            return ProbeState::Running;
        }
        // Who answered HELLO is one of ours, and slow: what it owns it would tell about as a plain disk, too.
        if matches!(&self.stage, Stage::Opening(opening) if opening.tries() >= HELLO_TRIES)
            && !self.is_ours
        {
            // Whatever answers as a plain disk proves nothing: it would stand in the way of the one that does.
            if self.demands_keys && !outlet.paths.is_local(self.path) {
                return self.end();
            }
            self.stage = Stage::Identify { tag: None, tries: 0, next: now };
        }
        let command = match self.stage {
            Stage::Opening(_) => Command::Session,
            Stage::Identify { .. } => Command::Ata,
        };
        let Some(header) = outlet.header_on(self.path, command) else { return ProbeState::Nobody };
        match &mut self.stage {
            Stage::Opening(opening) => {
                let is_local = outlet.paths.is_local(self.path);
                let frame = opening.transmit(now, header, is_local, random.as_mut());
                outlet.push(self.path, frame);
            }
            Stage::Identify { tries, .. } if *tries >= IDENTIFY_TRIES => return ProbeState::Nobody,
            Stage::Identify { tag, tries, next } => {
                *tries += 1;
                *tag = Some(header.tag);
                *next = now + IDENTIFY_INTERVAL;
                let request = AtaRequest::new(header, AtaCommand::IDENTIFY, Lba(0), 1);
                outlet.push(self.path, request.emit(Buffer::empty()));
            }
        }
        ProbeState::Running
    }

    /// Nothing was heard with which something can be begun.
    fn end(&self) -> ProbeState {
        let unfit = |unfit| ProbeState::Done(Box::new(TargetKind::Unfit(unfit)));
        self.unfit.map_or(ProbeState::Nobody, unfit)
    }

    /// Takes a reply from this probe's path and address. Says whether it answers this probe.
    pub fn handle_frame(
        &mut self,
        now: Instant,
        header: &Header,
        frame: &[u8],
        outlet: &mut Outlet,
        random: &mut Random,
    ) -> (bool, ProbeState) {
        match &mut self.stage {
            Stage::Opening(_) if header.command == Command::Session && header.error.is_some() => {
                if self.demands_keys && !outlet.paths.is_local(self.path) {
                    self.unfit = Some(Unfit::NoKeys);
                    return (true, ProbeState::Running);
                }
                // It doesn't know the command: plain, and no need to wait.
                self.stage = Stage::Identify { tag: None, tries: 0, next: now };
            }
            Stage::Opening(opening) => {
                let Ok((reply, payload)) = SessionReply::parse(frame) else {
                    return (false, ProbeState::Running);
                };
                let is_local = outlet.paths.is_local(self.path);
                let message = Message { frame, payload, is_local };
                match opening.handle_reply(now, &reply, message, random.as_mut()) {
                    Progress::Stale => return (false, ProbeState::Running),
                    Progress::Unfit(unfit) => {
                        (self.is_ours, self.unfit) = (true, Some(unfit));
                    }
                    Progress::Heard => self.is_ours = true,
                    Progress::Refused(error) => {
                        return (true, ProbeState::Done(Box::new(TargetKind::Refused(error))));
                    }
                    Progress::Opened(opened) => {
                        let (export, node_key) = (opened.export.clone(), opened.node_key);
                        close(now, *opened, self.path, outlet);
                        let kind = TargetKind::Session { export, node_key };
                        return (true, ProbeState::Done(Box::new(kind)));
                    }
                }
            }
            Stage::Identify { tag, .. } => {
                let is_mine = *tag == Some(header.tag);
                let (true, Ok((reply, data))) = (is_mine, AtaReply::parse(frame)) else {
                    return (is_mine, ProbeState::Running);
                };
                if !reply.is_failure()
                    && header.error.is_none()
                    && let Ok(identify) = Identify::parse(data)
                {
                    return (true, ProbeState::Done(Box::new(TargetKind::Plain(identify))));
                }
            }
        }
        (true, self.advance(now, outlet, random))
    }
}

fn close(now: Instant, opened: Opened, path: PathId, outlet: &mut Outlet) {
    let Some(header) = outlet.header_on(path, Command::Session) else { return };
    let request = SessionRequest {
        version: opened.version,
        session: opened.session,
        instance: opened.instance,
        sequence: 1,
        floor: 1,
        ..SessionRequest::new(header, Operation::Close)
    };
    let mut seals = Seals(opened.keys);
    outlet.push(path, request.emit_sealed(Buffer::empty(), seals.sealing(now)));
}

//! The opening of a session: HELLO, its answer with the target's nonce, OPEN, the export.
//!
//! One opening tries for ever; its owner decides when that counts as lost. A target may take long to
//! answer OPEN (it first completes and flushes what it accepted before), so OPEN is repeated
//! patiently, but not for longer than the target remembers its nonce.

use std::rc::Rc;
use std::time::Duration;

use aoe_wire::{
    Choice, EXPORT_INFO_BYTES, ExportInfo, Frame, Header, Incarnation, Nonce, Offer, OpenPayload,
    Operation, SessionId, SessionReply, SessionRequest, SessionVersion, ShelfSlot, Status,
    WANTS_OFFER, open_sealed, prologue,
};
use block::{Instance, Instant, IoError, Lba, SectorRange};
use seal::{Asking, Identity, Keys, Occasion, Prover, PublicKey, Security, least_of};

/// First interval between transmissions; doubles.
const INTERVAL_MIN: Duration = Duration::from_millis(20);
/// Longest interval while the target is expected to answer.
const INTERVAL_MAX: Duration = Duration::from_millis(100);
/// Intervals towards a target that is lost.
const LOST_INTERVAL_MIN: Duration = Duration::from_millis(100);
const LOST_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// How long OPEN is repeated. Targets forget nonces after 10 s.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Sixteen random bytes from a generator of numbers.
pub(crate) fn random16(random: &mut dyn FnMut() -> u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random().to_be_bytes());
    bytes[8..].copy_from_slice(&random().to_be_bytes());
    bytes
}

/// A nonce that nobody foretells, and opens with before we do.
fn nonce_of(identity: &Identity) -> Nonce {
    let drawn = identity.draw();
    Nonce(std::array::from_fn(|at| drawn[at]))
}

/// An opening in progress.
pub(crate) struct Opening {
    address: ShelfSlot,
    incarnation: Incarnation,
    client: Nonce,
    started: Instant,
    stage: Stage,
    /// Transmissions in this stage.
    tries: u32,
    last_sent: Option<Instant>,
    next: Instant,
    target_is_lost: bool,
    /// The newest version that we speak.
    newest: SessionVersion,
    /// Who we are, where we have a key.
    identity: Option<Rc<Identity>>,
}

enum Stage {
    Hello,
    Open {
        payload: OpenPayload,
        session: SessionId,
        instance: Instance,
        version: SessionVersion,
        until: Instant,
        handshake: Option<Box<Handshake>>,
        /// The key that it has to prove, or that a program of this machine says it has.
        node_key: Option<PublicKey>,
        /// A program of this machine has answered, and one of both ends demands keys of others: it has to go on there.
        is_confined: bool,
    },
}

/// A handshake whose answer is awaited.
struct Handshake {
    asking: Asking,
    /// Its first message.
    ask: Vec<u8>,
    choice: Choice,
    /// What both ends have heard before.
    prologue: Vec<u8>,
    /// Whose key it is.
    target: PublicKey,
    /// The answer, once it was genuine: what carried it may have been changed, and may come again unchanged.
    answered: Option<Answered>,
}

struct Answered {
    answer: Vec<u8>,
    said: Vec<u8>,
    keys: Keys,
}

/// What the answer to OPEN brought.
pub(crate) struct Opened {
    /// The newest that both ends speak.
    pub version: SessionVersion,
    pub session: SessionId,
    pub instance: Instance,
    pub export: ExportInfo,
    pub clock: Instant,
    /// Most sectors of data that the target takes in one frame on this path; 0 when it doesn't say.
    pub takes: u16,
    /// Zero when it can't be told.
    pub round_trip: Duration,
    /// It has to stay on paths to programs of this machine.
    pub is_confined: bool,
    /// By which its messages are sealed, if they are.
    pub keys: Option<Keys>,
    /// The key of the machine that answered, if it proved one; what it says of a program of this machine.
    pub node_key: Option<PublicKey>,
}

/// What a frame meant to an opening.
pub(crate) enum Progress {
    /// It doesn't belong to this opening.
    Stale,
    /// Belongs to it; nothing to do but go on.
    Heard,
    /// The session is open.
    Opened(Box<Opened>),
    /// The target answered that it won't.
    Refused(IoError),
    /// Somebody answered who isn't, or doesn't offer, what we speak with.
    Unfit(Unfit),
}

/// Why whoever answered HELLO isn't spoken with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Nothing that it says can be proved.
    #[error("it knows no keys, and this machine demands them")]
    NoKeys,
    /// It isn't one of those that we speak with.
    #[error("its key {0} is none of those that this machine speaks with")]
    Stranger(PublicKey),
}

/// A message as it came.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    /// All of it.
    pub frame: &'a [u8],
    /// What was parsed of it.
    pub payload: &'a [u8],
    /// It came from a program of this machine.
    pub is_local: bool,
}

impl Handshake {
    /// What the answer carried and the keys, if all of the message is the asked target's.
    fn finish(&mut self, reply: &SessionReply, came: Message<'_>) -> Option<(Vec<u8>, Keys)> {
        let answer = came.payload;
        if self.answered.as_ref().is_none_or(|known| known.answer != answer) {
            let Choice { security, suite } = self.choice;
            let (said, keys) = self.asking.finish(answer, suite, security)?;
            self.answered = Some(Answered { answer: answer.to_vec(), said, keys });
        }
        let opener = &mut self.answered.as_mut()?.keys.opener;
        open_sealed(came.frame, reply.operation, &reply.seal, answer, opener, &mut Vec::new())
            .ok()?;
        self.answered.take().map(|known| (known.said, known.keys))
    }
}

impl Opening {
    /// Begins now. Against a lost target the tries are farther apart.
    pub fn new(
        address: ShelfSlot,
        incarnation: Incarnation,
        now: Instant,
        target_is_lost: bool,
        random: &mut dyn FnMut() -> u64,
    ) -> Opening {
        Opening {
            address,
            incarnation,
            client: Nonce(random16(random)),
            started: now,
            stage: Stage::Hello,
            tries: 0,
            last_sent: None,
            next: now,
            target_is_lost,
            newest: SessionVersion::NEWEST,
            identity: None,
        }
    }

    /// As who has this key, towards whom that speaks with.
    pub fn with_identity(self, identity: Option<Rc<Identity>>) -> Opening {
        let drawn = identity.as_deref().map(nonce_of);
        Opening { client: drawn.unwrap_or(self.client), identity, ..self }
    }

    /// Speaks nothing newer than this.
    pub fn with_newest(self, newest: SessionVersion) -> Opening {
        Opening { newest, ..self }
    }

    /// When to send next.
    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Transmissions since the last progress.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// There is new hope: sends next at once.
    pub fn hurry(&mut self, now: Instant) {
        self.next = now;
        self.tries = 0;
    }

    /// From now on with the intervals for a lost target.
    pub fn slow_down(&mut self, now: Instant) {
        self.target_is_lost = true;
        self.tries = 0;
        self.next = self.next.max(now + LOST_INTERVAL_MIN);
    }

    /// Waits the longest interval before the next try.
    pub fn pause(&mut self, now: Instant) {
        self.next = now + LOST_INTERVAL_MAX;
    }

    /// The frame to send now, on a path that leads to a program of this machine (`is_local`) or elsewhere. Call
    /// when the deadline has come.
    pub fn transmit(
        &mut self,
        now: Instant,
        header: Header,
        is_local: bool,
        random: &mut dyn FnMut() -> u64,
    ) -> Frame {
        if let Stage::Open { until, is_confined, .. } = &self.stage
            && (now >= *until || *is_confined && !is_local)
        {
            self.begin_anew(random);
        }
        let (min, max) = match self.target_is_lost && matches!(self.stage, Stage::Hello) {
            true => (LOST_INTERVAL_MIN, LOST_INTERVAL_MAX),
            false => (INTERVAL_MIN, INTERVAL_MAX),
        };
        self.next = now + (min * (1 << self.tries.min(8))).min(max);
        self.tries = self.tries.saturating_add(1);
        self.last_sent = Some(now);
        match &self.stage {
            Stage::Hello => SessionRequest {
                lba: if self.identity.is_some() { WANTS_OFFER } else { Lba(0) },
                ..SessionRequest::new(header, Operation::Hello)
            }
            .emit(OpenPayload::emit_hello(self.client, self.incarnation)),
            Stage::Open { payload, session, instance, version, handshake, .. } => SessionRequest {
                version: *version,
                session: *session,
                instance: *instance,
                ..SessionRequest::new(header, Operation::Open)
            }
            .emit(match handshake {
                Some(handshake) => payload.emit_keyed(&handshake.ask),
                None => payload.emit(),
            }),
        }
    }

    /// Whether it has to stay on paths to programs of this machine: what is said there in clear is for no Ethernet.
    pub fn is_confined(&self) -> bool {
        matches!(self.stage, Stage::Open { is_confined: true, .. })
    }

    /// Whether a session may be without keys.
    fn may_be_open(&self, is_local: bool) -> bool {
        is_local || least_of(self.identity.as_deref()) == Security::None
    }

    /// Takes a reply, which came in `frame` on a path that leads to a program of this machine or elsewhere. When it
    /// says `Heard`, the deadline may have come nearer.
    pub fn handle_reply(
        &mut self,
        now: Instant,
        reply: &SessionReply,
        came: Message<'_>,
        random: &mut dyn FnMut() -> u64,
    ) -> Progress {
        match (&self.stage, reply.operation) {
            (Stage::Hello, Operation::Hello) => self.handle_hello(now, reply, came),
            (Stage::Open { session, instance, version, .. }, Operation::Open)
                if *session == reply.session && *version == reply.version =>
            {
                // The target restarted meanwhile, or has forgotten the nonce.
                if reply.status == Status::NoSession || *instance != reply.instance {
                    self.begin_anew(random);
                    self.next = now + INTERVAL_MIN;
                    return Progress::Heard;
                }
                self.handle_open(now, reply, came, random)
            }
            // A second answer to a repeated HELLO.
            (Stage::Open { session, .. }, Operation::Hello) if *session == reply.session => {
                Progress::Heard
            }
            _ => Progress::Stale,
        }
    }

    fn handle_hello(&mut self, now: Instant, reply: &SessionReply, came: Message<'_>) -> Progress {
        let Ok((target, offer)) = OpenPayload::parse_hello_reply(came.payload) else {
            return Progress::Stale;
        };
        let payload = OpenPayload { client: self.client, target, incarnation: self.incarnation };
        // Only the answer to this very HELLO yields this id.
        let session = SessionId::derive(&payload, reply.instance, self.address);
        if reply.status != Status::Ok || session != reply.session {
            return Progress::Stale;
        }
        let until = now + OPEN_TIMEOUT;
        let version = SessionVersion::of_offer(reply.detail).min(self.newest);
        let handshake =
            match self.handshake(&payload, offer.as_ref(), version, reply, came.is_local) {
                Ok(handshake) => handshake.map(Box::new),
                // Nothing proves that the target has said so. The right answer may still come.
                Err(unfit) => return Progress::Unfit(unfit),
            };
        let instance = reply.instance;
        let own = least_of(self.identity.as_deref());
        let least = own.max(offer.map_or(Security::None, |offer| offer.least));
        let is_confined = came.is_local && least > Security::None;
        let is_believed = came.is_local || handshake.is_some();
        let node_key = offer.filter(|_| is_believed).map(|offer| offer.key);
        self.stage = Stage::Open {
            payload,
            session,
            instance,
            version,
            until,
            handshake,
            node_key,
            is_confined,
        };
        self.tries = 0;
        self.next = now;
        Progress::Heard
    }

    /// How the session is to be sealed, if at all, after what the target offers.
    fn handshake(
        &self,
        opening: &OpenPayload,
        offer: Option<&Offer>,
        version: SessionVersion,
        reply: &SessionReply,
        is_local: bool,
    ) -> Result<Option<Handshake>, Unfit> {
        let offered = self.identity.as_deref().zip(offer).filter(|_| !is_local);
        let Some((own, offer)) = offered else {
            return if self.may_be_open(is_local) { Ok(None) } else { Err(Unfit::NoKeys) };
        };
        let security = own.least().max(offer.least);
        if security == Security::None {
            return Ok(None);
        }
        if !version.has_fragments() {
            return Err(Unfit::NoKeys);
        }
        let choice = Choice { security, suite: own.suite_with(offer.has_aes) };
        let prologue =
            prologue(opening, offer, reply.detail, version, reply.instance, self.address);
        let target = offer.key;
        let occasion = Occasion { client: own.public(), target, prologue: &prologue };
        let proofs = own.proofs(Prover::Client, &occasion);
        // Who is no stranger any more may say so in the answer.
        if !own.admits(&target) && proofs.is_empty() {
            return Err(Unfit::Stranger(target));
        }
        let said = choice.bytes(&proofs);
        let begun = Asking::begin(own.keys(), &target, &prologue, &said, own.draw());
        let (asking, ask) = begun.ok_or(Unfit::NoKeys)?;
        Ok(Some(Handshake { asking, ask, choice, prologue, target, answered: None }))
    }

    fn handle_open(
        &mut self,
        now: Instant,
        reply: &SessionReply,
        came: Message<'_>,
        random: &mut dyn FnMut() -> u64,
    ) -> Progress {
        let Stage::Open { handshake, node_key, is_confined, .. } = &mut self.stage else {
            return Progress::Stale;
        };
        let is_confined = *is_confined;
        let node_key = *node_key;
        let (said, keys) = match handshake {
            None if reply.seal.is_present() || is_confined && !came.is_local => {
                return Progress::Stale;
            }
            None => (came.payload.to_vec(), None),
            Some(handshake) => match handshake.finish(reply, came) {
                Some((said, keys)) => (said, Some(keys)),
                // Whoever says so isn't the one that was asked.
                None => return Progress::Stale,
            },
        };
        if reply.status != Status::Ok {
            self.begin_anew(random);
            self.pause(now);
            let error = reply.status.to_error(reply.detail, SectorRange::default(), reply.epoch);
            return error.map_or(Progress::Heard, Progress::Refused);
        }
        let (export, proof) = said.split_at(said.len().min(EXPORT_INFO_BYTES));
        let Ok(export) = ExportInfo::parse(export) else { return Progress::Stale };
        if let Some(stranger) = self.take_in(proof) {
            self.begin_anew(random);
            self.pause(now);
            return Progress::Unfit(Unfit::Stranger(stranger));
        }
        let round_trip = match (self.tries, self.last_sent) {
            (1, Some(sent)) => now.since(sent),
            _ => Duration::ZERO,
        };
        Progress::Opened(Box::new(Opened {
            version: reply.version,
            session: reply.session,
            instance: reply.instance,
            export,
            clock: reply.clock,
            takes: reply.takes,
            round_trip,
            is_confined,
            keys,
            node_key,
        }))
    }

    /// Takes the target for one of ours if it has proved that it has a token; its key if it is none whom we speak with.
    fn take_in(&self, proof: &[u8]) -> Option<PublicKey> {
        let Stage::Open { handshake: Some(handshake), .. } = &self.stage else { return None };
        let own = self.identity.as_deref()?;
        let Handshake { prologue, target, .. } = &**handshake;
        let occasion = Occasion { client: own.public(), target: *target, prologue };
        let _known = own.take_in(Prover::Target, &occasion, proof);
        (!own.admits(target)).then_some(*target)
    }

    fn begin_anew(&mut self, random: &mut dyn FnMut() -> u64) {
        let drawn = self.identity.as_deref().map(nonce_of);
        self.client = drawn.unwrap_or_else(|| Nonce(random16(random)));
        self.stage = Stage::Hello;
        self.tries = 0;
    }
}

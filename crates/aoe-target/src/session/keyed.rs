//! Sessions with keys: who may open one, and which of the messages that name it are its client's.
//!
//! **What isn't sealed never reaches a session with keys**, and one without keys is open to programs of this machine
//! only as soon as the target demands anything.

use std::time::Duration;

use aoe_wire::{Choice, Offer, OpenPayload, SessionReply, SessionRequest, open_sealed, prologue};
use block::{Buffer, Instant};
use seal::{Asked, Identity, Keys, Occasion, Prover, PublicKey, Security};

use crate::Shared;
use crate::export::{Asker, Export, PortState};
use crate::session::Session;
use crate::stats::Counter;

/// Handshakes are worked on so many at a time, as whoever has a session waits for them ...
const HANDSHAKES_MAX: u32 = 8;
/// ... each so long: a flood of openings may cost a twentieth of a processor.
const HANDSHAKES_PER: Duration = Duration::from_micros(31_250);

/// How many handshakes may still be worked on.
#[derive(Default)]
pub(crate) struct Allowance {
    since: Instant,
    taken: u32,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        if now.since(self.since) >= HANDSHAKES_PER {
            *self = Allowance { since: now, taken: 0 };
        }
        self.taken += 1;
        self.taken <= HANDSHAKES_MAX
    }
}

/// A handshake that is to be answered.
pub(crate) struct Handshake {
    asked: Asked,
    choice: Choice,
    /// By which its client knows that this target has a token that it has, too; otherwise empty.
    proof: Vec<u8>,
}

impl Handshake {
    /// Whose key it is.
    pub(crate) fn peer(&self) -> PublicKey {
        self.asked.peer
    }

    /// How its messages are sealed.
    pub(crate) fn security(&self) -> Security {
        self.choice.security
    }

    /// What an answer carries that lets its client in: that, and the proof.
    pub(crate) fn with_proof(&self, export: &[u8]) -> Vec<u8> {
        [export, &self.proof].concat()
    }

    /// The answer, which carries `said`, and what the session has from then on.
    pub(crate) fn answer(self, said: &[u8]) -> Option<SessionKeys> {
        let Choice { security, suite } = self.choice;
        let (answer, keys) = self.asked.answer(said, suite, security)?;
        Some(SessionKeys { keys, answer: Some(Buffer::copy_of(&answer)) })
    }
}

/// What a session with keys has.
pub(crate) struct SessionKeys {
    pub keys: Keys,
    /// The answer to its OPEN, which is the same whenever that is repeated; none once its client has it.
    pub answer: Option<Buffer>,
}

/// What becomes of an OPEN.
pub(crate) enum Admission {
    /// The session has no keys.
    Without,
    /// It has.
    With(Box<Handshake>),
    /// Its client isn't one of those that this target speaks with, and is to be told.
    Refused(Option<Box<Handshake>>),
    /// It is dropped.
    Dropped(Counter),
}

/// What the target says of its keys to who asks for it.
pub(crate) fn offer(identity: &Identity) -> Offer {
    Offer { key: identity.public(), least: identity.least(), has_aes: identity.has_aes() }
}

/// Who asks for something within a session. Whether he is the target's own is asked only of a medium that obeys nobody: of
/// others it says nothing, and this is asked for each request.
pub(crate) fn asker(
    export: &Export,
    shared: &Shared,
    trusted: bool,
    key: Option<PublicKey>,
) -> Asker {
    let is_own = export.device.grant.is_none() && is_own(shared, key.as_ref());
    Asker { trusted, key, is_own }
}

/// Whether who has proved this key, or needed none, may have media that obey nobody.
pub(crate) fn is_own(shared: &Shared, key: Option<&PublicKey>) -> bool {
    let own = shared.identity.as_deref();
    key.zip(own).is_none_or(|(key, own)| own.is_own(key))
}

/// Who opens a session, and whether it may. Its nonce has been looked at.
pub(crate) fn admit(
    shared: &mut Shared,
    export: &Export,
    port: &PortState,
    request: &SessionRequest,
    opening: &OpenPayload,
    ask: Option<&[u8]>,
) -> Admission {
    let Some(identity) = shared.identity.clone() else {
        return if ask.is_none() {
            Admission::Without
        } else {
            Admission::Dropped(Counter::Malformed)
        };
    };
    let Some(ask) = ask else {
        let may = port.trusted || identity.least() == Security::None;
        return if may { Admission::Without } else { Admission::Refused(None) };
    };
    if !shared.handshakes.take(shared.now) {
        return Admission::Dropped(Counter::QueueFull);
    }
    let offer = offer(&identity);
    let (instance, address) = (export.device.instance, export.address());
    let newest = shared.newest.offer();
    let prologue = prologue(opening, &offer, newest, request.version, instance, address);
    let Some(asked) = Asked::read(identity.keys(), &prologue, ask, identity.draw()) else {
        return Admission::Dropped(Counter::Forged);
    };
    let said = Choice::parse(&asked.said);
    let Some((choice, proofs)) = said.filter(|(choice, _)| choice.security >= identity.least())
    else {
        return Admission::Dropped(Counter::Malformed);
    };
    let (client, target) = (asked.peer, identity.public());
    let occasion = Occasion { client, target, prologue: &prologue };
    let token = identity.take_in(Prover::Client, &occasion, proofs);
    let proof = token.map(|token| token.proof(Prover::Target, &occasion).to_vec());
    let admits = identity.admits(&asked.peer);
    let handshake = Box::new(Handshake { asked, choice, proof: proof.unwrap_or_default() });
    if admits { Admission::With(handshake) } else { Admission::Refused(Some(handshake)) }
}

/// What a message for this session says, if it may be for it; `None` if not, and then it is counted.
pub(crate) fn open<'a>(
    session: &mut Session,
    least: Security,
    port: &PortState,
    request: &SessionRequest,
    message: Message<'a>,
    opened: &'a mut Vec<u8>,
) -> Result<&'a [u8], Counter> {
    let Message { frame, payload } = message;
    let Some(SessionKeys { keys, answer }) = &mut session.keys else {
        let is_open = port.trusted || least == Security::None;
        return if is_open && !request.seal.is_present() {
            Ok(payload)
        } else {
            Err(Counter::Forged)
        };
    };
    let opener = &mut keys.opener;
    let said = open_sealed(frame, request.operation, &request.seal, payload, opener, opened);
    let said = said.map_err(|rejected| match rejected {
        seal::Rejected::Forged => Counter::Forged,
        seal::Rejected::Repeated => Counter::Repeated,
    })?;
    *answer = None;
    Ok(said)
}

/// A message as it came, and its payload.
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    pub frame: &'a [u8],
    pub payload: &'a [u8],
}

/// Sends an answer, sealed where it is one to a session with keys; others may be in its frame, as long as that is no
/// longer than said.
pub(crate) fn send(
    export: &mut Export,
    shared: &mut Shared,
    port: &PortState,
    reply: &SessionReply,
    payload: Buffer,
    together_bytes: usize,
) {
    let now = shared.now;
    let session = export.sessions.get_mut(reply.session);
    let keys = session.and_then(|session| session.keys.as_mut()).map(|known| &mut known.keys);
    let sealing = keys.map(|keys| aoe_wire::Sealing { sealer: &mut keys.sealer, now });
    shared.send(port.id, reply.emit_sealed(payload, sealing).together(together_bytes));
}

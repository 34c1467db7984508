//! A client with a key of its own making, or none: it opens sessions by the protocol, and asks for what isn't its own.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};

use aoe_wire::{
    Choice, Command, ExportInfo, Header, Incarnation, Nonce, Offer, OpenPayload, Operation,
    Sealing, SessionId, SessionReply, SessionRequest, SessionVersion, Status, WANTS_OFFER,
    open_sealed, prologue,
};
use block::{Buffer, Epoch, Instance, Instant, Lba};
use os::net::InterfaceSpec;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use seal::{Asking, KeyPair, Keys, SecretKey, Security, Suite};

use crate::frames::Client;

/// So often what isn't answered is sent again, at most.
const TRIES: u32 = 50;

/// What a request was answered.
#[derive(Debug)]
pub struct Answer {
    /// 0 is *ok*.
    pub status: u8,
    /// More about that.
    pub detail: u64,
    /// What it brought.
    pub payload: Vec<u8>,
}

/// Such a client, in a session.
pub struct Stranger {
    client: Client,
    session: SessionId,
    instance: Instance,
    version: SessionVersion,
    sequence: u64,
    keys: Option<Keys>,
    info: Option<ExportInfo>,
    /// The disk's owner's, by the last answer.
    pub epoch: Epoch,
}

thread_local! {
    static RANDOM: RefCell<SmallRng> =
        RefCell::new(SmallRng::seed_from_u64(RandomState::new().build_hasher().finish()));
}

/// Bytes that nobody had before: good enough for keys that protect nothing.
pub fn drawn<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    RANDOM.with_borrow_mut(|random| random.fill_bytes(&mut bytes));
    bytes
}

/// A key as anybody can make one.
pub fn any_key() -> KeyPair {
    KeyPair::of(SecretKey::new(drawn())).unwrap()
}

impl Stranger {
    /// Opens a session as who has this key, or no key; otherwise what the opening was answered.
    pub fn open(
        interface: &InterfaceSpec,
        address: &str,
        own: Option<&KeyPair>,
        version: SessionVersion,
    ) -> Result<Stranger, Option<Status>> {
        let client = Client::connect(interface, address.parse().unwrap()).unwrap();
        let (session, instance) = (SessionId::NONE, Instance::default());
        let epoch = Epoch::OBSERVER;
        let mut stranger = Stranger {
            client,
            session,
            instance,
            version,
            sequence: 0,
            keys: None,
            info: None,
            epoch,
        };
        let (nonce, incarnation) = (Nonce(drawn()), Incarnation(drawn()));
        let mut hello = stranger.request(Operation::Hello);
        hello.version = SessionVersion::One;
        hello.lba = WANTS_OFFER;
        let hello = bytes_of(hello, OpenPayload::emit_hello(nonce, incarnation), None);
        let (reply, payload, _) = stranger.ask(&hello).ok_or(None)?;
        (stranger.session, stranger.instance) = (reply.session, reply.instance);
        let (target, offer) = OpenPayload::parse_hello_reply(&payload).unwrap();
        let opening = OpenPayload { client: nonce, target, incarnation };
        let open = stranger.request(Operation::Open);
        let Some((own, offer)) = own.zip(offer) else {
            let (reply, payload, _) =
                stranger.ask(&bytes_of(open, opening.emit(), None)).ok_or(None)?;
            stranger.info = ExportInfo::parse(&payload).ok();
            return if reply.status == Status::Ok { Ok(stranger) } else { Err(Some(reply.status)) };
        };
        let (mut asking, ask, choice) = stranger.begin(own, &offer, &opening, reply.detail);
        let (reply, answer, frame) =
            stranger.ask(&bytes_of(open, opening.emit_keyed(&ask), None)).ok_or(None)?;
        let finished = asking.finish(&answer, choice.suite, choice.security);
        let (said, mut keys) = finished.ok_or(Some(reply.status))?;
        let opener = &mut keys.opener;
        open_sealed(&frame, Operation::Open, &reply.seal, &answer, opener, &mut Vec::new())
            .expect("the target that was asked answers");
        if reply.status != Status::Ok {
            return Err(Some(reply.status));
        }
        stranger.info = ExportInfo::parse(&said).ok();
        stranger.keys = Some(keys);
        Ok(stranger)
    }

    fn begin(
        &self,
        own: &KeyPair,
        offer: &Offer,
        opening: &OpenPayload,
        newest: u64,
    ) -> (Asking, Vec<u8>, Choice) {
        let choice = Choice { security: Security::Encrypt, suite: Suite::ChaCha20Poly1305 };
        let (instance, address) = (self.instance, self.client.address());
        let said = prologue(opening, offer, newest, self.version, instance, address);
        let begun = Asking::begin(own, &offer.key, &said, &choice.bytes(&[]), drawn());
        let (asking, ask) = begun.unwrap();
        (asking, ask, choice)
    }

    /// What the disk's node says of it.
    pub fn info(&self) -> &ExportInfo {
        self.info.as_ref().unwrap()
    }

    /// What the disk is at present, to its node.
    pub fn instance(&self) -> Instance {
        self.instance
    }

    fn request(&self, operation: Operation) -> SessionRequest {
        let (client, address) = (self.client.mac(), self.client.address());
        let tag = self.client.tag();
        let header = Header::request(self.client.target(), client, address, Command::Session, tag);
        SessionRequest {
            version: self.version,
            session: self.session,
            instance: self.instance,
            sequence: self.sequence,
            floor: self.sequence,
            takes: if self.version == SessionVersion::One { 0 } else { 17 },
            ..SessionRequest::new(header, operation)
        }
    }

    fn ask(&mut self, request: &[u8]) -> Option<(SessionReply, Vec<u8>, Vec<u8>)> {
        let answer = self.client.ask(request, TRIES).unwrap()?;
        let (reply, payload) = SessionReply::parse(&answer).unwrap();
        let payload = payload.to_vec();
        self.epoch = reply.epoch;
        Some((reply, payload, answer))
    }

    /// A request under this epoch (0 of an observer); `None` for silence.
    pub fn command(
        &mut self,
        operation: Operation,
        (epoch, force): (Epoch, bool),
        (lba, sectors): (u64, u32),
        payload: Buffer,
    ) -> Option<Answer> {
        self.sequence += 1;
        let request = self.request(operation);
        let request = SessionRequest { lba: Lba(lba), sectors, epoch, force, ..request };
        let sealing = self.keys.as_mut();
        let now = Instant::default();
        let sealing = sealing.map(|keys| Sealing { sealer: &mut keys.sealer, now });
        let bytes = bytes_of(request, payload, sealing);
        let (reply, payload, frame) = self.ask(&bytes)?;
        let mut opened = Vec::new();
        let payload = match &mut self.keys {
            None => payload,
            Some(keys) => {
                let opener = &mut keys.opener;
                let said = open_sealed(
                    &frame,
                    reply.operation,
                    &reply.seal,
                    &payload,
                    opener,
                    &mut opened,
                );
                said.expect("what the target says is sealed").to_vec()
            }
        };
        Some(Answer { status: reply.status.into(), detail: reply.detail, payload })
    }
}

/// A request as bytes.
pub fn bytes_of(request: SessionRequest, payload: Buffer, sealing: Option<Sealing<'_>>) -> Vec<u8> {
    let frame = request.emit_sealed(payload, sealing);
    [frame.head.as_slice(), &frame.payload].concat()
}

//! The opening of a session: HELLO, its answer with the target's nonce, OPEN, the export.
//!
//! One opening tries for ever; its owner decides when that counts as lost. A target may take long to
//! answer OPEN (it first completes and flushes what it accepted before), so OPEN is repeated
//! patiently, but not for longer than the target remembers its nonce.

use std::time::Duration;

use aoe_wire::{
    ExportInfo, Frame, Header, Incarnation, Nonce, OpenPayload, Operation, SessionId, SessionReply,
    SessionRequest, SessionVersion, ShelfSlot, Status,
};
use block::{Instance, Instant, IoError, SectorRange};

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
}

enum Stage {
    Hello,
    Open {
        payload: OpenPayload,
        session: SessionId,
        instance: Instance,
        version: SessionVersion,
        until: Instant,
    },
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
        }
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

    /// The frame to send now. Call when the deadline has come.
    pub fn transmit(
        &mut self,
        now: Instant,
        header: Header,
        random: &mut dyn FnMut() -> u64,
    ) -> Frame {
        if let Stage::Open { until, .. } = self.stage
            && now >= until
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
            Stage::Hello => SessionRequest::new(header, Operation::Hello)
                .emit(OpenPayload::emit_hello(self.client, self.incarnation)),
            Stage::Open { payload, session, instance, version, .. } => SessionRequest {
                version: *version,
                session: *session,
                instance: *instance,
                ..SessionRequest::new(header, Operation::Open)
            }
            .emit(payload.emit()),
        }
    }

    /// Takes a reply. When it says `Heard`, the deadline may have come nearer.
    pub fn handle_reply(
        &mut self,
        now: Instant,
        reply: &SessionReply,
        payload: &[u8],
        random: &mut dyn FnMut() -> u64,
    ) -> Progress {
        match (&self.stage, reply.operation) {
            (Stage::Hello, Operation::Hello) => self.handle_hello(now, reply, payload),
            (Stage::Open { session, instance, version, .. }, Operation::Open)
                if *session == reply.session && *version == reply.version =>
            {
                let same_instance = *instance == reply.instance;
                match reply.status {
                    Status::Ok if same_instance => self.handle_open(now, reply, payload),
                    // The target restarted meanwhile, or has forgotten the nonce.
                    Status::Ok | Status::NoSession => {
                        self.begin_anew(random);
                        self.next = now + INTERVAL_MIN;
                        Progress::Heard
                    }
                    status => {
                        let highest = reply.epoch;
                        self.begin_anew(random);
                        self.pause(now);
                        match status.to_error(reply.detail, SectorRange::default(), highest) {
                            Some(error) => Progress::Refused(error),
                            None => Progress::Heard,
                        }
                    }
                }
            }
            // A second answer to a repeated HELLO.
            (Stage::Open { .. }, Operation::Hello) => Progress::Heard,
            _ => Progress::Stale,
        }
    }

    fn handle_hello(&mut self, now: Instant, reply: &SessionReply, payload: &[u8]) -> Progress {
        let Ok(target) = OpenPayload::parse_hello_reply(payload) else { return Progress::Stale };
        let payload = OpenPayload { client: self.client, target, incarnation: self.incarnation };
        // Only the answer to this very HELLO yields this id.
        let session = SessionId::derive(&payload, reply.instance, self.address);
        if reply.status != Status::Ok || session != reply.session {
            return Progress::Stale;
        }
        let until = now + OPEN_TIMEOUT;
        let version = SessionVersion::of_offer(reply.detail).min(self.newest);
        self.stage = Stage::Open { payload, session, instance: reply.instance, version, until };
        self.tries = 0;
        self.next = now;
        Progress::Heard
    }

    fn handle_open(&mut self, now: Instant, reply: &SessionReply, payload: &[u8]) -> Progress {
        let Ok(export) = ExportInfo::parse(payload) else { return Progress::Stale };
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
        }))
    }

    fn begin_anew(&mut self, random: &mut dyn FnMut() -> u64) {
        self.client = Nonce(random16(random));
        self.stage = Stage::Hello;
        self.tries = 0;
    }
}

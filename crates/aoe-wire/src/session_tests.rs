//! Session messages against literal bytes and against damage.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::{HolderPayload, Incarnation, MacAddr, Nonce, OpenPayload, ShelfSlot, open_sealed};
use block::{Holder, OwnerId, crc32c};
use proptest::prelude::*;
use seal::{Asked, Asking, KeyPair, SecretKey, Security, Suite};

fn header(response: bool) -> Header {
    Header {
        destination: MacAddr([0x52, 0x54, 0, 0, 0, 1]),
        source: MacAddr([0x52, 0x54, 0, 0, 0, 2]),
        version: 1,
        response,
        error: None,
        address: ShelfSlot::new(194, 3),
        command: Command::Session,
        tag: 0x0102_0304,
    }
}

fn write() -> SessionRequest {
    SessionRequest {
        durable: true,
        session: SessionId(0x1112_1314_1516_1718),
        instance: Instance(0x2122_2324_2526_2728),
        epoch: Epoch(0x31),
        sequence: 0x41,
        floor: 0x40,
        lba: Lba(0x51),
        sectors: 1,
        ..SessionRequest::new(header(false), Operation::Write)
    }
}

fn bytes_of(frame: &Frame) -> Vec<u8> {
    [frame.head.as_slice(), &frame.payload].concat()
}

#[test]
fn a_write_from_literal_bytes() {
    #[rustfmt::skip]
    let mut expected = vec![
        0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2, 0x88, 0xa2,
        0x10, 0, 0x00, 0xc2, 3, 0xf0, 1, 2, 3, 4,
        1, 0x11, 0x02, 0, 0, 0, 0, 0,
        0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
        0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28,
        0, 0, 0, 0, 0, 0, 0, 0x31,
        0, 0, 0, 0, 0, 0, 0, 0x41,
        0, 0, 0, 0, 0, 0, 0, 0x40,
        0, 0, 0, 0, 0, 0, 0, 0x51,
        0, 0, 0, 1, 0, 0, 2, 0,
        0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(expected.len(), SessionVersion::One.header_bytes());
    expected.extend([0xab; 512]);
    let seeded = [&expected[32..40], &expected[..]].concat();
    let crc = crc32c(&seeded);
    expected[28..32].copy_from_slice(&crc.to_be_bytes());

    assert_eq!(bytes_of(&write().emit(Buffer::copy_of(&[0xab; 512]))), expected);
    expected.extend([0xee; 40]);
    let (parsed, payload) = SessionRequest::parse(&expected).unwrap();
    assert_eq!((parsed, payload), (write(), &[0xab; 512][..]));
}

/// The second of two fragments of a write of three sectors.
fn fragment() -> SessionRequest {
    SessionRequest {
        version: SessionVersion::Two,
        sectors: 3,
        first: 1,
        takes: 0x0203,
        last: true,
        ..write()
    }
}

#[test]
fn a_fragment_from_literal_bytes() {
    #[rustfmt::skip]
    let mut expected = vec![
        0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2, 0x88, 0xa2,
        0x10, 0, 0x00, 0xc2, 3, 0xf0, 1, 2, 3, 4,
        2, 0x11, 0x0a, 0, 0, 0, 0, 0,
        0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18,
        0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28,
        0, 0, 0, 0, 0, 0, 0, 0x31,
        0, 0, 0, 0, 0, 0, 0, 0x41,
        0, 0, 0, 0, 0, 0, 0, 0x40,
        0, 0, 0, 0, 0, 0, 0, 0x51,
        0, 0, 0, 3, 0, 0, 4, 0,
        0, 0, 0, 0, 0, 0, 0, 0,
        0, 1, 2, 3, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(expected.len(), SessionVersion::Two.header_bytes());
    expected.extend([0xab; 1024]);
    let seeded = [&expected[32..40], &expected[..]].concat();
    let crc = crc32c(&seeded);
    expected[28..32].copy_from_slice(&crc.to_be_bytes());

    let data = Buffer::copy_of(&[0xab; 1024]);
    assert_eq!(bytes_of(&fragment().emit(data.clone())), expected);
    let (parsed, payload) = SessionRequest::parse(&expected).unwrap();
    assert_eq!((parsed, payload), (fragment(), &data[..]));
    let more_follows = SessionRequest { last: false, ..fragment() };
    let bytes = bytes_of(&more_follows.emit(data));
    assert_eq!(bytes[26], 0x02);
    assert_eq!(SessionRequest::parse(&bytes).unwrap().0, more_follows);
}

/// Whoever has no key for it can tell that it has a seal, and leaves it.
#[test]
fn a_seal_stands_in_front_of_the_payload() {
    let mut bytes = bytes_of(&fragment().emit(Buffer::zeroed(1024)));
    assert!(!SessionRequest::parse(&bytes).unwrap().0.seal.is_present());
    bytes[100..104].copy_from_slice(&[0, 0, 0, 7]);
    bytes[104..112].copy_from_slice(&[0, 0, 0, 0, 0, 0, 1, 2]);
    bytes[112..128].fill(9);
    bytes[28..32].fill(0);
    let crc = crc32c(&[&bytes[32..40], &bytes].concat());
    bytes[28..32].copy_from_slice(&crc.to_be_bytes());
    let seal = Seal { key: 7, counter: 258, tag: [9; 16] };
    assert_eq!(SessionRequest::parse(&bytes).unwrap().0, SessionRequest { seal, ..fragment() });
}

/// All of the message is under the tag, but for the checksum, which is made of the sealed bytes.
#[test]
fn a_sealed_message_is_opened_as_it_was_and_not_otherwise() {
    let [mine, theirs] = [1, 2].map(|number| KeyPair::of(SecretKey::new([number; 32])).unwrap());
    let keys = |security| {
        let (mut asking, ask) = Asking::begin(&mine, &theirs.public(), b"", b"", [3; 32]).unwrap();
        let asked = Asked::read(&theirs, b"", &ask, [4; 32]).unwrap();
        let (answer, at_target) = asked.answer(b"", Suite::Aes256Gcm, security).unwrap();
        let (_, at_client) = asking.finish(&answer, Suite::Aes256Gcm, security).unwrap();
        (at_client, at_target)
    };
    for security in [Security::Authenticate, Security::Encrypt] {
        let (mut client, mut target) = keys(security);
        let sealing = Sealing { sealer: &mut client.sealer, now: Instant::default() };
        let sealed = bytes_of(&fragment().emit_sealed(Buffer::copy_of(&[5; 1024]), Some(sealing)));
        assert_eq!(sealed[128..] == [5; 1024], security == Security::Authenticate);
        let mut opened = Vec::new();
        let mut open = |bytes: &[u8]| {
            let (request, payload) = SessionRequest::parse(bytes).ok()?;
            let (seal, opener) = (request.seal, &mut target.opener);
            open_sealed(bytes, request.operation, &seal, payload, opener, &mut opened)
                .ok()
                .map(<[u8]>::to_vec)
        };
        for at in (0..28).chain(32..sealed.len()) {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            changed[28..32].fill(0);
            let crc = crc32c(&[&changed[32..40], &changed].concat());
            changed[28..32].copy_from_slice(&crc.to_be_bytes());
            assert_eq!(open(&changed), None, "byte {at}");
        }
        assert_eq!(open(&sealed).unwrap(), [5; 1024]);
        assert_eq!(open(&sealed), None, "a second time");
    }
}

/// A whole one, as docs/session.md has it: by that another implementation sees what is sealed with what, and what the CRC
/// is of.
#[test]
fn a_sealed_message_is_the_documented_one() {
    let [client, target] = [1, 2].map(|number| KeyPair::of(SecretKey::new([number; 32])).unwrap());
    let begun = Asking::begin(&client, &target.public(), b"prologue", b"\x02\x01", [3; 32]);
    let (mut asking, ask) = begun.unwrap();
    let asked = Asked::read(&target, b"prologue", &ask, [4; 32]).unwrap();
    let (suite, security) = (Suite::Aes256Gcm, Security::Encrypt);
    let (answer, _) = asked.answer(b"export", suite, security).unwrap();
    let (_, mut keys) = asking.finish(&answer, suite, security).unwrap();
    let sealing = Sealing { sealer: &mut keys.sealer, now: Instant::default() };
    let sealed = bytes_of(&fragment().emit_sealed(Buffer::copy_of(&[5; 1024]), Some(sealing)));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let text = include_str!("../../../docs/session.md");
    for part in [&sealed[..64], &sealed[64..128], &sealed[128..144]] {
        assert!(text.contains(&hex(part)), "docs/session.md lacks {}", hex(part));
    }
}

#[test]
fn a_fragment_of_a_reply() {
    let reply = SessionReply {
        header: header(true),
        version: SessionVersion::Two,
        operation: Operation::Read,
        status: Status::Ok,
        detail: 0,
        session: SessionId(9),
        instance: Instance(8),
        epoch: Epoch(7),
        sequence: 6,
        executed: 5,
        clock: Instant::from_nanos(4),
        sectors: 2048,
        first: 0x0123,
        takes: 0x0011,
        seal: Seal::default(),
    };
    let bytes = bytes_of(&reply.emit(Buffer::zeroed(512)));
    assert_eq!((bytes[24], &bytes[96..100]), (2, &[1, 0x23, 0, 0x11][..]));
    assert_eq!(SessionReply::parse(&bytes), Ok((reply, &[0; 512][..])));
    let older = SessionRequest { version: SessionVersion::Two, together: true, ..write() };
    let bytes = bytes_of(&older.emit(Buffer::zeroed(512)));
    assert_eq!(SessionRequest::parse(&bytes).err(), Some(ParseError::Reserved));
    let elsewhere = SessionReply { operation: Operation::Write, ..reply };
    let bytes = bytes_of(&elsewhere.emit(Buffer::empty()));
    assert_eq!(SessionReply::parse(&bytes), Err(ParseError::Reserved));
}

#[test]
fn the_newest_version_that_both_know() {
    for (offer, version) in [
        (0, SessionVersion::One),
        (1, SessionVersion::One),
        (2, SessionVersion::Two),
        (3, SessionVersion::Three),
        (4, SessionVersion::Three),
        (SessionVersion::One.offer(), SessionVersion::One),
        (SessionVersion::NEWEST.offer(), SessionVersion::NEWEST),
    ] {
        assert_eq!(SessionVersion::of_offer(offer), version, "{offer}");
    }
    for number in [0, 4, 255] {
        let mut bytes = bytes_of(&write().emit(Buffer::zeroed(512)));
        bytes[24] = number;
        assert_eq!(SessionRequest::parse(&bytes), Err(ParseError::Version));
    }
}

#[test]
fn a_reply_round_trip() {
    let reply = SessionReply {
        header: header(true),
        version: SessionVersion::One,
        operation: Operation::Status,
        status: Status::Fenced,
        detail: 3,
        session: SessionId(9),
        instance: Instance(8),
        epoch: Epoch(7),
        sequence: 6,
        executed: 5,
        clock: Instant::from_nanos(4),
        sectors: 0,
        first: 0,
        takes: 0,
        seal: Seal::default(),
    };
    let holder = Holder::new(Epoch(7), OwnerId(uuid::Uuid::from_bytes([3; 16])));
    let bytes = bytes_of(&reply.emit(HolderPayload::emit(holder)));
    assert_eq!((bytes[26], bytes[27]), (0x01, 6));
    let (parsed, payload) = SessionReply::parse(&bytes).unwrap();
    assert_eq!(parsed, reply);
    assert_eq!(HolderPayload::parse(payload), Ok(holder));
    assert_eq!(SessionRequest::parse(&bytes), Err(ParseError::WrongKind));
}

#[test]
fn a_holder_and_when_it_was_heard() {
    let owner = OwnerId(uuid::Uuid::from_bytes([3; 16]));
    let nobody = Holder::new(Epoch(0x0102), owner);
    for (heard, field) in [
        (Some(Duration::ZERO), [0; 8]),
        (Some(Duration::from_micros(2_999)), [0, 0, 0, 0, 0, 0, 0, 2]),
        (Some(Duration::from_millis(0x01_0203)), [0, 0, 0, 0, 0, 1, 2, 3]),
        // So long that it would read as never.
        (Some(Duration::MAX), [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]),
        (None, [0xff; 8]),
    ] {
        let holder = Holder { heard, ..nobody };
        let payload = HolderPayload::emit(holder);
        assert_eq!(payload[..8], [0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!((&payload[8..24], &payload[24..]), (&[3; 16][..], &field[..]));
        let parsed = HolderPayload::parse(&payload).unwrap();
        assert!(parsed.is_same(holder));
        assert_eq!(parsed.heard.is_some(), heard.is_some());
    }
    let payload = HolderPayload::emit(nobody);
    assert_eq!(HolderPayload::parse(&payload[..24]), Err(ParseError::Length));
    assert_eq!(HolderPayload::parse(&[&payload[..], &[0]].concat()), Err(ParseError::Length));
}

#[test]
fn hello_is_sealed_without_a_session() {
    let mut hello = SessionRequest::new(header(false), Operation::Hello);
    let payload = OpenPayload::emit_hello(Nonce([1; 16]), Incarnation([2; 16]));
    hello.session = SessionId(77);
    let bytes = bytes_of(&hello.emit(payload));
    let mut unsealed = bytes.clone();
    unsealed[28..32].fill(0);
    let crc = crc32c(&[&[0; 8][..], &unsealed].concat());
    assert_eq!(bytes[28..32], crc.to_be_bytes());
    let (_, payload) = SessionRequest::parse(&bytes).unwrap();
    assert_eq!(OpenPayload::parse_hello(payload), Ok((Nonce([1; 16]), Incarnation([2; 16]))));
}

#[test]
fn another_session_is_another_checksum() {
    let mut bytes = bytes_of(&write().emit(Buffer::zeroed(512)));
    bytes[39] ^= 1;
    assert_eq!(SessionRequest::parse(&bytes), Err(ParseError::Checksum));
}

#[test]
fn ids_depend_on_everything() {
    let opening = OpenPayload {
        client: Nonce([1; 16]),
        target: Nonce([2; 16]),
        incarnation: Incarnation([3; 16]),
    };
    let id = SessionId::derive(&opening, Instance(4), ShelfSlot::new(5, 6));
    assert_ne!(id, SessionId::NONE);
    let mut others = vec![
        SessionId::derive(&opening, Instance(5), ShelfSlot::new(5, 6)),
        SessionId::derive(&opening, Instance(4), ShelfSlot::new(6, 6)),
        SessionId::derive(&opening, Instance(4), ShelfSlot::new(5, 7)),
    ];
    for changed in [
        OpenPayload { client: Nonce([9; 16]), ..opening },
        OpenPayload { target: Nonce([9; 16]), ..opening },
        OpenPayload { incarnation: Incarnation([9; 16]), ..opening },
    ] {
        others.push(SessionId::derive(&changed, Instance(4), ShelfSlot::new(5, 6)));
    }
    assert!(!others.contains(&id));
    assert_eq!(OpenPayload::parse(&opening.emit()), Ok(opening));
}

#[test]
fn lengths_and_reserved_bits_are_strict() {
    let refused = |change: &dyn Fn(&mut SessionRequest), payload: usize| {
        let mut request = write();
        change(&mut request);
        SessionRequest::parse(&bytes_of(&request.emit(Buffer::zeroed(payload)))).err()
    };
    assert_eq!(refused(&|_| (), 512), None);
    assert_eq!(refused(&|_| (), 511), Some(ParseError::Length));
    assert_eq!(refused(&|r| r.sectors = u32::MAX, 512), Some(ParseError::Length));
    assert_eq!(refused(&|r| r.operation = Operation::Flush, 0), Some(ParseError::Reserved));
    assert_eq!(refused(&|r| r.force = true, 512), Some(ParseError::Reserved));
    let forced_read = |epoch| {
        let read = move |r: &mut SessionRequest| {
            (r.operation, r.durable, r.force) = (Operation::Read, false, true);
            r.epoch = Epoch(epoch);
        };
        refused(&read, 0)
    };
    assert_eq!(forced_read(0), None);
    assert_eq!(forced_read(1), Some(ParseError::Reserved));
    assert_eq!(
        refused(&|r| r.header.error = Some(crate::AoeError::Reserved), 512),
        Some(ParseError::Reserved)
    );
    assert_eq!(
        refused(&|r| (r.operation, r.durable) = (Operation::Read, false), 512),
        Some(ParseError::Length)
    );
    assert_eq!(
        refused(&|r| (r.operation, r.durable) = (Operation::Unknown(0x77), false), 512),
        None
    );
}

#[test]
fn fragments_lie_within_their_command() {
    let refused = |change: &dyn Fn(&mut SessionRequest), payload: usize| {
        let mut request = fragment();
        change(&mut request);
        SessionRequest::parse(&bytes_of(&request.emit(Buffer::zeroed(payload)))).err()
    };
    for (sectors, first, payload) in
        [(3, 1, 512), (3, 1, 1024), (3, 2, 512), (3, 0, 1536), (u32::MAX, u16::MAX, 512), (0, 0, 0)]
    {
        let change = |r: &mut SessionRequest| (r.sectors, r.first) = (sectors, first);
        assert_eq!(refused(&change, payload), None, "{sectors} {first} {payload}");
    }
    for (sectors, first, payload) in
        [(3, 1, 0), (3, 1, 1536), (3, 3, 512), (3, 0, 511), (3, 0, 513), (0, 1, 0), (0, 0, 512)]
    {
        let change = |r: &mut SessionRequest| (r.sectors, r.first) = (sectors, first);
        assert_eq!(refused(&change, payload), Some(ParseError::Length), "{sectors} {first}");
    }
    // What isn't data has no place in it, and is waited for always.
    let flush = |first, last: bool| {
        let mut bytes = bytes_of(
            &SessionRequest { operation: Operation::Flush, durable: false, first, ..fragment() }
                .emit(Buffer::empty()),
        );
        bytes[26] |= if last { 0x08 } else { 0 };
        bytes[28..32].fill(0);
        let crc = crc32c(&[&bytes[32..40], &bytes].concat());
        bytes[28..32].copy_from_slice(&crc.to_be_bytes());
        SessionRequest::parse(&bytes).map(|(request, _)| request.last)
    };
    assert_eq!(flush(0, false), Ok(true));
    assert_eq!(flush(1, false), Err(ParseError::Reserved));
    assert_eq!(flush(0, true), Err(ParseError::Reserved));
}

#[test]
fn a_read_may_name_what_it_wants() {
    let read = |version, sectors, payload: usize| {
        let request = SessionRequest {
            version,
            operation: Operation::Read,
            durable: false,
            sectors,
            first: 0,
            ..fragment()
        };
        let bytes = bytes_of(&request.emit(Buffer::zeroed(payload)));
        SessionRequest::parse(&bytes).map(|(_, payload)| payload.len())
    };
    use SessionVersion::{One, Two};
    for (version, sectors, payload, expected) in [
        (One, 17, 0, Ok(0)),
        (One, 17, 3, Err(ParseError::Length)),
        (Two, 17, 0, Ok(0)),
        (Two, 17, 3, Ok(3)),
        (Two, 17, 2, Err(ParseError::Length)),
        (Two, 2048, 256, Ok(256)),
        (Two, 2049, 257, Err(ParseError::Length)),
        (Two, 2049, 0, Ok(0)),
    ] {
        assert_eq!(read(version, sectors, payload), expected, "{version:?} {sectors} {payload}");
    }
}

#[test]
fn sectors_per_message() {
    use SessionVersion::{One, Two};
    for (mtu, one, two) in [
        (0, 0, 0),
        (1500, 2, 2),
        (4096, 7, 7),
        (9000, 16, 17),
        (9216, 16, 17),
        (65536, 120, 127),
        (usize::MAX, !7, 2048),
    ] {
        assert_eq!(session_sectors_max(mtu, One), one, "mtu {mtu}");
        assert_eq!(session_sectors_max(mtu, Two), two, "mtu {mtu}");
    }
}

fn version() -> impl Strategy<Value = SessionVersion> {
    prop_oneof![Just(SessionVersion::One), Just(SessionVersion::Two), Just(SessionVersion::Three)]
}

proptest! {
    #[test]
    fn one_changed_byte_is_never_accepted(at in 0usize..608, change in 1u8..) {
        for request in [write(), SessionRequest { first: 0, sectors: 1, ..fragment() }] {
            let mut bytes = bytes_of(&request.emit(Buffer::zeroed(512)));
            bytes[at] ^= change;
            prop_assert!(SessionRequest::parse(&bytes).is_err());
            prop_assert!(SessionReply::parse(&bytes).is_err());
        }
    }

    #[test]
    fn requests_survive_the_wire(
        version in version(),
        raw in (any::<u8>(), any::<bool>(), any::<bool>(), any::<bool>()),
        numbers in any::<[u64; 6]>(),
        part in (1u32..40, 0u16..40, 0u32..40, any::<u16>()),
    ) {
        let (operation, durable, force, last) = raw;
        let operation = Operation::from(operation);
        let [session, instance, epoch, sequence, floor, lba] = numbers;
        let is_write = operation == Operation::Write;
        let in_fragments = is_write && version.has_fragments();
        let (count, first, behind, takes) = part;
        let first = if in_fragments { first } else { 0 };
        let sectors = count + u32::from(first) + if in_fragments { behind } else { 0 };
        let request = SessionRequest {
            version,
            operation,
            durable: durable && matches!(operation, Operation::Write | Operation::WriteZeroes),
            force: force
                && (operation == Operation::Claim || operation == Operation::Read && epoch == 0),
            session: SessionId(session),
            instance: Instance(instance),
            epoch: Epoch(epoch),
            sequence,
            floor,
            lba: Lba(lba),
            sectors,
            first,
            takes: if version.has_fragments() { takes } else { 0 },
            last: last || !in_fragments,
            together: version == SessionVersion::Three && lba.is_multiple_of(2),
            ..SessionRequest::new(header(false), operation)
        };
        let payload = match operation {
            Operation::Hello => 32,
            Operation::Open => 48,
            Operation::Claim => 16,
            Operation::Write => count as usize * 512,
            _ => 0,
        };
        let bytes = bytes_of(&request.emit(Buffer::zeroed(payload)));
        prop_assert_eq!(bytes.len(), version.header_bytes() + payload);
        let (parsed, data) = SessionRequest::parse(&bytes).unwrap();
        prop_assert_eq!((parsed, data.len()), (request, payload));
    }

    #[test]
    fn replies_survive_the_wire(
        version in version(),
        raw in (any::<u8>(), any::<u8>()),
        numbers in any::<[u64; 7]>(),
        part in (any::<u32>(), any::<u16>(), any::<u16>()),
        payload in 0usize..2000,
    ) {
        let operation = Operation::from(raw.0);
        let [session, instance, epoch, sequence, executed, clock, detail] = numbers;
        let in_fragments = operation == Operation::Read && version.has_fragments();
        let reply = SessionReply {
            header: header(true),
            version,
            operation,
            status: Status::from(raw.1),
            detail,
            session: SessionId(session),
            instance: Instance(instance),
            epoch: Epoch(epoch),
            sequence,
            executed,
            clock: Instant::from_nanos(clock),
            sectors: part.0,
            first: if in_fragments { part.1 } else { 0 },
            takes: if version.has_fragments() { part.2 } else { 0 },
            seal: Seal::default(),
        };
        let bytes = bytes_of(&reply.emit(Buffer::zeroed(payload)));
        let (parsed, data) = SessionReply::parse(&bytes).unwrap();
        prop_assert_eq!((parsed, data.len()), (reply, payload));
    }

    #[test]
    fn nothing_panics_on_noise(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = noise;
        for command in [0, 1, 2, 3, 0xf0] {
            if bytes.len() > 19 {
                bytes[12..14].copy_from_slice(&[0x88, 0xa2]);
                bytes[19] = command;
            }
            for response in [0x10, 0x18] {
                if bytes.len() > 14 {
                    bytes[14] = response;
                }
                let _ = SessionRequest::parse(&bytes);
                let _ = SessionReply::parse(&bytes);
                let _ = crate::AtaRequest::parse(&bytes);
                let _ = crate::AtaReply::parse(&bytes);
                let _ = crate::ConfigMessage::parse(&bytes);
                let _ = crate::MaskMessage::parse(&bytes);
                let _ = crate::ReserveMessage::parse(&bytes);
                let _ = crate::ExportInfo::parse(&bytes);
                let _ = crate::Identify::parse(&bytes);
            }
        }
    }
}

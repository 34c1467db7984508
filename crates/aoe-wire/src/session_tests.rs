//! Session messages against literal bytes and against damage.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::MacAddr;
use block::crc32c;
use proptest::prelude::*;

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
    assert_eq!(expected.len(), SESSION_HEADER_BYTES);
    expected.extend([0xab; 512]);
    let seeded = [&expected[32..40], &expected[..]].concat();
    let crc = crc32c(&seeded);
    expected[28..32].copy_from_slice(&crc.to_be_bytes());

    assert_eq!(bytes_of(&write().emit(Buffer::copy_of(&[0xab; 512]))), expected);
    expected.extend([0xee; 40]);
    let (parsed, payload) = SessionRequest::parse(&expected).unwrap();
    assert_eq!((parsed, payload), (write(), &[0xab; 512][..]));
}

#[test]
fn a_reply_round_trip() {
    let reply = SessionReply {
        header: header(true),
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
fn sectors_per_message() {
    for (mtu, sectors) in [(0, 0), (1500, 2), (4096, 7), (9000, 16), (9216, 16), (65536, 120)] {
        assert_eq!(session_sectors_max(mtu), sectors, "mtu {mtu}");
    }
}

proptest! {
    #[test]
    fn one_changed_byte_is_never_accepted(at in 0usize..608, change in 1u8..) {
        let mut bytes = bytes_of(&write().emit(Buffer::zeroed(512)));
        bytes[at] ^= change;
        prop_assert!(SessionRequest::parse(&bytes).is_err());
        prop_assert!(SessionReply::parse(&bytes).is_err());
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

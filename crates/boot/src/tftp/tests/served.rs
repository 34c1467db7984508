//! Who is served, who is refused, and whom somebody else's packets don't disturb.

use super::*;

struct Served {
    server: Server,
    out: Vec<Effect>,
}

impl Served {
    fn new(limits: Limits) -> Served {
        Served { server: Server::new(limits), out: Vec::new() }
    }

    fn asks(&mut self, now: Instant, from: SocketAddrV4, packet: &[u8]) -> Option<Opening> {
        let opening = self.server.request(now, from, packet, &mut self.out);
        self.server.check();
        opening.unwrap()
    }

    fn begins(&mut self, now: Instant, from: SocketAddrV4, packet: &[u8]) -> TransferId {
        let opening = self.asks(now, from, packet).unwrap();
        let id = self.server.begin(now, opening, 100_000, &mut self.out).unwrap().unwrap();
        self.server.check();
        id
    }

    /// Begun and answered.
    fn goes(&mut self, now: Instant, from: SocketAddrV4) -> TransferId {
        let id = self.begins(now, from, &read("f", ""));
        self.receives(now, id, from, &ack(1));
        id
    }

    fn receives(&mut self, now: Instant, id: TransferId, from: SocketAddrV4, packet: &[u8]) {
        self.server.receive(now, id, from, packet, &mut self.out);
        self.server.check();
    }

    fn refused(&mut self, now: Instant, from: SocketAddrV4, packet: &[u8]) -> Refused {
        let opening = match self.server.request(now, from, packet, &mut self.out) {
            Ok(opening) => opening.unwrap(),
            Err(refused) => return refused,
        };
        self.server.begin(now, opening, 100_000, &mut self.out).unwrap_err()
    }

    fn takes(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out)
    }

    /// What came: numbers of blocks, of options as block 0; and ends.
    fn seen(&mut self) -> Vec<(TransferId, Result<u16, End>)> {
        let seen = |effect| match effect {
            Effect::Send { id, what: Outgoing::Data { block, .. }, .. } => (id, Ok(block)),
            Effect::Send { id, what: Outgoing::Packet(packet), .. } => {
                assert_eq!(packet[1], 6);
                (id, Ok(0))
            }
            Effect::Over { id, end } => (id, Err(end)),
        };
        self.takes().into_iter().map(seen).collect()
    }
}

fn error_of(packet: &[u8]) -> (u8, &str) {
    assert!(packet.starts_with(&[0, 5, 0]) && packet.ends_with(&[0]));
    (packet[3], std::str::from_utf8(&packet[4..packet.len() - 1]).unwrap())
}

#[test]
fn what_isnt_served_is_refused_with_a_reason() {
    let mut served = Served::new(Limits::default());
    for (packet, code, message) in [
        (&b"\0\x02f\0octet\0"[..], 2, "files can only be read"),
        (b"\0\x01f\0netascii\0", 4, "the only mode is octet"),
        (b"\0\x01f\0mail\0", 4, "the only mode is octet"),
        (b"\0\x01f\0\0", 4, "the only mode is octet"),
        (b"\0\x01f\0octet", 4, "malformed request"),
        (b"\0\x01../f\0octet\0", 2, "the name has a '..'"),
        (b"\0\x01\\..\\f\0octet\0", 2, "the name has a '..'"),
        (b"\0\x01\0octet\0", 2, "the name is empty"),
        (b"\0\x01a\x07\0octet\0", 2, "the name is not plain text"),
        (b"\0\x01\xff\0octet\0", 2, "the name is not plain text"),
        (&read(&"a".repeat(256), ""), 2, "the name has more than 255 bytes"),
    ] {
        let refusal = served.refused(at(0), address(2, 4000), packet).packet();
        assert_eq!(error_of(&refusal), (code, message), "{packet:?}");
    }
    assert_eq!(error_of(&Refused::NotFound.packet()), (1, "no such file"));
    assert!(served.out.is_empty() && served.server.is_empty());
}

#[test]
fn what_is_no_request_is_not_answered() {
    let mut served = Served::new(Limits::default());
    let no_requests = [
        &b""[..],
        b"\0",
        b"\0\x03\0\x01data",
        b"\0\x04\0\x01",
        b"\0\x05\0\0no\0",
        b"\0\x06",
        b"\0\x09",
    ];
    for packet in no_requests {
        assert_eq!(served.asks(at(0), address(2, 4000), packet), None);
    }
    for ip in [[0, 0, 0, 0], [255, 255, 255, 255], [224, 0, 0, 1], [239, 1, 2, 3]] {
        let from = SocketAddrV4::new(ip.into(), 4000);
        assert_eq!(served.asks(at(0), from, &read("f", "")), None, "{from}");
        assert_eq!(served.asks(at(0), from, b"\0\x02f\0octet\0"), None, "{from}");
    }
    assert_eq!(served.asks(at(0), address(2, 0), &read("f", "")), None);
    assert!(served.out.is_empty() && served.server.is_empty());
}

#[test]
fn names_are_normalised_before_they_are_opened() {
    let mut served = Served::new(Limits::default());
    for asked in ["boot/ipxe.efi", "/boot/ipxe.efi", "\\boot\\ipxe.efi", ".//boot/./ipxe.efi"] {
        let opening = served.asks(at(0), address(2, 4000), &read(asked, "")).unwrap();
        assert_eq!(opening.name().to_string(), "boot/ipxe.efi");
    }
}

#[test]
fn a_request_that_is_repeated_is_one() {
    let mut served = Served::new(Limits::default());
    let (client, request) = (address(2, 4000), read("f", "tsize\x000\0"));
    // Before its file is open, too.
    let twice = [0, 1].map(|_| served.asks(at(0), client, &request).unwrap());
    let [first, second] =
        twice.map(|opening| served.server.begin(at(0), opening, 9, &mut served.out).unwrap());
    let id = first.unwrap();
    assert_eq!((second, served.server.len()), (None, 1));
    assert_eq!(served.seen(), [(id, Ok(0)), (id, Ok(0))]);
    // Its answer was lost: it is sent again, and the clock isn't wound up by it.
    assert_eq!(served.asks(at(900), client, &request), None);
    assert_eq!(served.seen(), [(id, Ok(0))]);
    assert_eq!(served.server.deadline(), Some(at(1000)));
    // Once it goes on, a late duplicate is nothing.
    served.receives(at(950), id, client, &ack(0));
    assert_eq!(served.seen(), [(id, Ok(1))]);
    assert_eq!(served.asks(at(4999), client, &request), None);
    assert_eq!(served.seen(), []);
    // From another port, or for another file, it is another.
    let other = served.begins(at(1000), address(2, 4001), &request);
    assert!(other != id && served.server.len() == 2);
}

/// A machine that was reset may use the same port.
#[test]
fn a_client_that_begins_anew_is_served_anew() {
    let mut served = Served::new(Limits::default());
    let client = address(2, 4000);
    let old = served.goes(at(0), client);
    served.takes();
    let new = served.begins(at(5000), client, &read("f", ""));
    assert_eq!(served.seen(), [(new, Ok(1))]);
    // Whether that was meant is known by the answer.
    served.receives(at(5000), old, client, &ack(2));
    assert_eq!(served.seen(), [(old, Ok(3))]);
    served.receives(at(5000), new, client, &ack(1));
    assert_eq!(served.seen(), [(old, Err(End::Superseded)), (new, Ok(2))]);
    // What it has never answered it doesn't want if it asks for something else.
    let size = served.begins(at(6000), address(3, 4000), &read("f", "tsize\x000\0"));
    let file = served.begins(at(6001), address(3, 4000), &read("f", "blksize\x001432\0"));
    let seen = served.seen();
    assert_eq!(seen, [(size, Ok(0)), (size, Err(End::Superseded)), (file, Ok(0))]);
}

#[test]
fn strangers_dont_disturb_a_transfer() {
    let mut served = Served::new(Limits::default());
    let client = address(2, 4000);
    let id = served.goes(at(0), client);
    served.takes();
    for stranger in [address(2, 4001), address(3, 4000)] {
        for packet in [ack(2), read("f", ""), b"\0\x03\0\x02".to_vec(), b"\0\x06".to_vec()] {
            served.receives(at(0), id, stranger, &packet);
            let effects = served.takes();
            let [Effect::Send { to, what: Outgoing::Packet(answer), .. }] = effects.as_slice()
            else {
                panic!("{effects:?}")
            };
            assert_eq!((*to, error_of(answer)), (stranger, (5, "not your transfer")));
        }
        // No answers to errors, nor to what is no packet.
        for packet in [&b"\0\x05\0\0no\0"[..], b"\0\x05", b"\0", b"", b"\0\x09"] {
            served.receives(at(0), id, stranger, packet);
            assert_eq!(served.seen(), []);
        }
    }
    served.receives(at(0), id, SocketAddrV4::new([255; 4].into(), 4000), &ack(2));
    assert_eq!(served.seen(), []);
    served.receives(at(0), id, client, &ack(2));
    assert_eq!(served.seen(), [(id, Ok(3))]);
}

#[test]
fn a_client_ends_its_transfer() {
    let mut served = Served::new(Limits::default());
    let client = address(2, 4000);
    // As ROMs do when they have learnt the size.
    let id = served.begins(at(0), client, &read("f", "tsize\x000\0"));
    served.receives(at(0), id, client, b"\0\x05\0\x08TFTP\x1b Aborted\xff\0");
    let end = End::Client { code: 8, message: "TFTP Aborted\u{fffd}".into() };
    assert_eq!(served.seen(), [(id, Ok(0)), (id, Err(end))]);
    let id = served.begins(at(0), client, &read("f", ""));
    served.receives(at(0), id, client, &[&b"\0\x05\0\0"[..], &[b'a'; 1000]].concat());
    let end = End::Client { code: 0, message: "a".repeat(100) };
    assert_eq!(served.seen(), [(id, Ok(1)), (id, Err(end))]);
    // What no reader sends.
    for packet in [&read("f", "")[..], b"\0\x02f\0octet\0", b"\0\x03\0\x01", b"\0\x06", b"\0\x08"] {
        let id = served.goes(at(0), client);
        served.takes();
        served.receives(at(0), id, client, packet);
        let effects = served.takes();
        let Effect::Send { to, what: Outgoing::Packet(answer), .. } = &effects[0] else { panic!() };
        assert_eq!((*to, error_of(answer).0), (client, 4));
        assert_eq!(effects[1..], [Effect::Over { id, end: End::Illegal }]);
        // Nothing is left of it.
        served.receives(at(0), id, client, &ack(2));
        assert!(served.takes().is_empty() && served.server.opening(id).is_none());
    }
    // A packet that was damaged is nothing.
    let id = served.goes(at(0), client);
    served.takes();
    for packet in [&b""[..], b"\0", b"\0\x04", b"\0\x04\0"] {
        served.receives(at(0), id, client, packet);
    }
    assert!(served.takes().is_empty() && served.server.len() == 1);
    served.server.fail(id, &mut served.out);
    let effects = served.takes();
    let Effect::Send { what: Outgoing::Packet(answer), .. } = &effects[0] else { panic!() };
    assert_eq!(error_of(answer), (0, "the file can't be read"));
    assert_eq!(effects[1..], [Effect::Over { id, end: End::Failed }]);
    assert!(served.server.is_empty());
}

#[test]
fn an_address_has_its_share_and_no_more() {
    let mut served = Served::new(Limits::default());
    let ids: Vec<TransferId> =
        (0..8).map(|port| served.goes(at(0), address(2, 4000 + port))).collect();
    let ninth = address(2, 5000);
    let refused = served.refused(at(0), ninth, &read("f", ""));
    assert_eq!(refused, Refused::AddressBusy);
    assert_eq!(error_of(&refused.packet()), (0, "too many transfers of this address"));
    served.begins(at(0), address(3, 5000), &read("f", ""));
    served.receives(at(0), ids[3], address(2, 4003), b"\0\x05\0\0\0");
    served.takes();
    let id = served.begins(at(0), ninth, &read("f", ""));
    assert_eq!(served.seen(), [(id, Ok(1))]);
    // As long as one isn't answered it has to make room: whoever invents requests in the name of a client doesn't
    // keep it from being served.
    let next = served.begins(at(0), address(2, 5001), &read("f", ""));
    assert_eq!(served.seen(), [(id, Err(End::Displaced)), (next, Ok(1))]);
}

#[test]
fn all_together_have_their_limit() {
    let limits = Limits { transfers: 20, unanswered: 5, ..Limits::default() };
    let mut served = Served::new(limits);
    for host in 0..20 {
        served.goes(at(0), address(host + 1, 4000));
    }
    let refused = served.refused(at(0), address(100, 4000), &read("f", ""));
    assert_eq!(refused, Refused::Busy);
    assert_eq!(served.server.len(), 20);
    // All answer, and take nothing: sooner or later one makes room.
    let refused = served.refused(at(9_999), address(100, 4000), &read("f", ""));
    assert_eq!(refused, Refused::Busy);
    served.takes();
    let id = served.begins(at(10_000), address(100, 4000), &read("f", ""));
    let seen = served.seen();
    assert!(matches!(seen[..], [(_, Err(End::Displaced)), (new, Ok(1))] if new == id), "{seen:?}");
    // Not even none is a limit that would make it useless.
    let limits = Limits { transfers: 0, per_address: 0, unanswered: 0, blksize: 0, windowsize: 0 };
    let mut served = Served::new(limits);
    served.begins(at(0), address(2, 4000), &read("f", ""));
}

#[test]
fn a_flood_of_invented_requests_starves_nobody() {
    let mut served = Served::new(Limits::default());
    let mut real = Vec::new();
    let (mut sent, mut count) = (0, 0);
    for round in 0..100_u64 {
        let now = at(round);
        // 100 requests of as many machines between each two packets of a real one.
        for _ in 0..100 {
            count += 1_u32;
            let from = SocketAddrV4::new((0x0b00_0000 + count).into(), 4000);
            served.begins(now, from, &read("f", "windowsize\x0064\0"));
        }
        assert!(served.server.len() <= 256 + real.len());
        if round < 50 {
            let from = address(round as u8 + 1, 4000);
            let id = served.begins(now, from, &read("f", ""));
            real.push((id, from, 0));
        }
        // And some in their names.
        let known: Vec<SocketAddrV4> = real.iter().map(|(_, from, _)| *from).collect();
        for from in known {
            let from = SocketAddrV4::new(*from.ip(), 10_000 + round as u16);
            served.begins(now, from, &read("f", ""));
        }
        for (id, from, block) in &mut real {
            *block += 1;
            served.server.receive(now, *id, *from, &ack(*block), &mut served.out);
        }
        served.server.poll(now, &mut served.out);
        sent += served.takes().len();
        served.server.check();
    }
    // Each of them got on, block by block.
    for (id, from, block) in real {
        served.receives(at(100), id, from, &ack(block + 1));
        assert!(matches!(served.seen()[..], [(_, Ok(next))] if next == block + 2));
    }
    // Nobody gets a window, or a second packet within a second, who hasn't answered.
    assert!(sent < 2 * 10_000 + 4 * 100 * 50, "{sent}");
}

#[test]
fn who_doesnt_answer_gets_few_packets() {
    let mut served = Served::new(Limits::default());
    let options = ["", "windowsize\x0064\0", "blksize\x001468\0windowsize\x0064\0tsize\x000\0"];
    for (host, options) in options.into_iter().enumerate() {
        served.begins(at(0), address(host as u8, 4000), &read("f", options));
    }
    while let Some(due) = served.server.deadline() {
        served.server.poll(due, &mut served.out);
        served.server.check();
        assert!(due <= at(15_000));
    }
    let (packets, ends): (Vec<_>, Vec<_>) =
        served.seen().into_iter().partition(|(_, seen)| seen.is_ok());
    assert_eq!((packets.len(), ends.len()), (4 * 3, 3));
    let silent = End::Silent { all_sent: false };
    assert!(ends.into_iter().all(|(_, end)| end == Err(silent.clone())));
}

#[test]
fn a_client_that_goes_away_with_all_it_wants_isnt_said_to_have_failed() {
    let mut served = Served::new(Limits::default());
    let opening = served.asks(at(0), address(2, 4000), &read("f", "")).unwrap();
    let id = served.server.begin(at(0), opening, 600, &mut served.out).unwrap().unwrap();
    served.receives(at(0), id, address(2, 4000), &ack(1));
    while let Some(due) = served.server.deadline() {
        served.server.poll(due, &mut served.out);
    }
    assert_eq!(served.seen().pop(), Some((id, Err(End::Silent { all_sent: true }))));
}

#[test]
fn what_is_due_at_once_is_done_in_parts() {
    let mut served = Served::new(Limits::default());
    for host in 0..100 {
        served.begins(at(0), address(host + 1, 4000), &read("f", ""));
    }
    served.takes();
    served.server.poll(at(999), &mut served.out);
    assert_eq!(served.takes().len(), 0);
    let mut parts = Vec::new();
    while served.server.deadline() == Some(at(1000)) {
        served.server.poll(at(1000), &mut served.out);
        parts.push(served.takes().len());
    }
    assert_eq!(parts, [32, 32, 32, 4]);
}

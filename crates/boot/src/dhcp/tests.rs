#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ANYBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
const UUID: Uuid = Uuid::from_u128(0x00112233_4455_6677_8899_aabbccddeeff);

/// A request as bytes.
struct Asks {
    kind: u8,
    uses: Ipv4Addr,
    relay: Ipv4Addr,
    options: Vec<(u8, Vec<u8>)>,
}

impl Asks {
    fn new(kind: u8) -> Asks {
        let none = Ipv4Addr::UNSPECIFIED;
        Asks { kind, uses: none, relay: none, options: Vec::new() }
    }

    fn with(mut self, kind: u8, data: &[u8]) -> Asks {
        self.options.push((kind, data.to_vec()));
        self
    }

    fn address(self, kind: u8, address: Ipv4Addr) -> Asks {
        self.with(kind, &address.octets())
    }

    fn pxe(self, architecture: u8) -> Asks {
        let uuid: Vec<u8> = [0].into_iter().chain(UUID.to_bytes_le()).collect();
        self.with(60, b"PXEClient:Arch:00000:UNDI:002001")
            .with(93, &[0, architecture])
            .with(97, &uuid)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 240];
        bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
        bytes[4..8].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.uses.octets());
        bytes[24..28].copy_from_slice(&self.relay.octets());
        bytes[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
        bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
        bytes.extend([53, 1, self.kind]);
        for (kind, data) in &self.options {
            bytes.extend([*kind, data.len() as u8]);
            bytes.extend(data);
        }
        bytes.push(255);
        bytes
    }
}

/// What a reply says.
struct Told(Vec<u8>);

impl Told {
    fn option(&self, kind: u8) -> Option<&[u8]> {
        let mut rest = &self.0[240..];
        while let [is, len, data @ ..] = rest {
            match *is {
                255 => return None,
                0 => rest = &rest[1..],
                is if is == kind => return Some(&data[..usize::from(*len)]),
                _ => rest = &data[usize::from(*len)..],
            }
        }
        None
    }

    fn kind(&self) -> u8 {
        self.option(53).unwrap()[0]
    }

    fn address_at(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::from(<[u8; 4]>::try_from(&self.0[at..at + 4]).unwrap())
    }

    fn gives(&self) -> Ipv4Addr {
        self.address_at(16)
    }

    fn file(&self) -> &str {
        let file = &self.0[108..236];
        let end = file.iter().position(|byte| *byte == 0).unwrap();
        std::str::from_utf8(&file[..end]).unwrap()
    }
}

fn given(_: &Client) -> Option<Given> {
    Some(Given("undionly.kpxe".into()))
}

fn ask(server: &mut Server, port: u16, asks: &Asks) -> Outcome {
    server.receive(Instant::default(), (ANYBODY, port), &asks.bytes(), given)
}

fn answer(outcome: Outcome) -> (SocketAddrV4, Told) {
    let Outcome::Answered(answer) = outcome else { panic!("{outcome:?}") };
    told(answer)
}

/// An address is taken, which is remembered, and answered then.
fn taken(server: &mut Server, asks: &Asks) -> (SocketAddrV4, Told) {
    assert_eq!(ask(server, SERVER_PORT, asks), Outcome::Changed);
    let mut unkept = server.unkept(Instant::default()).unwrap();
    assert_eq!((unkept.leases.len(), unkept.answers.len()), (1, 1));
    assert_eq!(server.unkept(Instant::default()), None);
    told(unkept.answers.remove(0))
}

fn told(answer: Answer) -> (SocketAddrV4, Told) {
    // All of it is sound for who reads it strictly.
    let packet = smoltcp::wire::DhcpPacket::new_checked(&answer.bytes[..]).unwrap();
    smoltcp::wire::DhcpRepr::parse(&packet).unwrap();
    assert_eq!(packet.transaction_id(), 0xdead_beef);
    assert_eq!(packet.client_hardware_address().0, [2, 0, 0, 0, 0, 7]);
    assert!((300..=1472).contains(&answer.bytes.len()));
    (answer.to, Told(answer.bytes))
}

fn giving() -> Server {
    let range = Range::new([10, 0, 0, 10].into(), [10, 0, 0, 20].into(), 24).unwrap();
    let leases = Leases::new(range, [].into(), vec![US]);
    let network = Network {
        router: Some(US),
        name_servers: vec![US, [9, 9, 9, 9].into()],
        domain: Some("lan".into()),
        lease: Duration::from_secs(3600),
        names: [(aoe_wire::MacAddr([2, 0, 0, 0, 0, 7]), "node-7".into())].into(),
    };
    Server::new(US, Some(Addresses { leases, network }))
}

#[test]
fn a_machine_is_known_by_what_it_says() {
    let parse = |asks: Asks| Request::parse(&asks.bytes()).unwrap().client;
    let pxe = parse(Asks::new(1).pxe(7).with(12, b"node-7"));
    assert_eq!(pxe.uuid, Some(UUID));
    assert_eq!((pxe.program, pxe.architecture), (Program::Pxe, Architecture::EfiX64));
    assert_eq!(
        (pxe.mac.to_string().as_str(), pxe.hostname.as_deref()),
        ("02:00:00:00:00:07", Some("node-7"))
    );
    for class in [&b"iPXE"[..], b"\x04iPXE"] {
        let ipxe = parse(Asks::new(1).pxe(0).with(77, class));
        assert_eq!((ipxe.program, ipxe.architecture), (Program::Ipxe, Architecture::Bios));
    }
    let http = parse(Asks::new(1).with(60, b"HTTPClient:Arch:00016").with(93, &[0, 16]));
    assert_eq!((http.program, http.architecture), (Program::Http, Architecture::EfiX64));
    let linux = parse(Asks::new(1).with(60, b"dhcpcd").with(12, b"a\x1b[2J"));
    assert_eq!((linux.program, linux.uuid, linux.hostname), (Program::Other, None, None));
    for blank in [[0; 17], [255; 17]] {
        assert_eq!(parse(Asks::new(1).with(97, &blank)).uuid, None);
    }
}

#[test]
fn a_proxy_names_a_file_and_gives_no_address() {
    let mut server = Server::new(US, None);
    let (to, told) = answer(ask(&mut server, SERVER_PORT, &Asks::new(1).pxe(0)));
    assert_eq!(to, SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT));
    assert_eq!((told.kind(), told.gives()), (2, Ipv4Addr::UNSPECIFIED));
    assert_eq!((told.file(), told.address_at(20)), ("undionly.kpxe", US));
    assert_eq!(told.option(60), Some(&b"PXEClient"[..]));
    assert_eq!(told.option(43), Some(&[6, 1, 8, 255][..]));
    assert_eq!(told.option(54), Some(&US.octets()[..]));
    assert_eq!(told.option(97).map(<[u8]>::len), Some(17));
    assert_eq!((told.option(51), told.option(1)), (None, None));
    // Later by its own port.
    let uses = Ipv4Addr::new(10, 0, 0, 77);
    let asks = Asks { uses, ..Asks::new(3).pxe(7).address(54, US) };
    let from = SocketAddrV4::new(uses, 4011);
    let outcome = server.receive(Instant::default(), (from, PROXY_PORT), &asks.bytes(), given);
    let (to, told) = answer(outcome);
    assert_eq!((to, told.kind(), told.file()), (from, 5, "undionly.kpxe"));
}

#[test]
fn a_proxy_says_nothing_to_those_who_are_none_of_its_own() {
    let mut server = Server::new(US, None);
    let other = Ipv4Addr::new(10, 0, 0, 2);
    for (port, asks) in [
        (SERVER_PORT, Asks::new(1)),
        (SERVER_PORT, Asks::new(3).pxe(0)),
        (SERVER_PORT, Asks { relay: other, ..Asks::new(1).pxe(0) }),
        (PROXY_PORT, Asks::new(1).pxe(0)),
        (PROXY_PORT, Asks::new(3)),
        (PROXY_PORT, Asks::new(3).pxe(0).address(54, other)),
    ] {
        assert_eq!(ask(&mut server, port, &asks), Outcome::Nothing, "{:?}", asks.options);
    }
    let bytes = Asks::new(1).pxe(0).bytes();
    let outcome = server.receive(Instant::default(), (ANYBODY, SERVER_PORT), &bytes, |_| None);
    assert_eq!(outcome, Outcome::Nothing);
}

#[test]
fn a_url_is_told_to_those_who_read_urls() {
    let url = format!("http://10.0.0.1/boot.ipxe?{}", "x".repeat(150));
    for class in [&b"iPXE"[..], b""] {
        let asks = Asks::new(1).with(60, b"HTTPClient").with(77, class);
        let given = |_: &Client| Some(Given(url.clone()));
        let mut server = Server::new(US, None);
        let outcome =
            server.receive(Instant::default(), (ANYBODY, SERVER_PORT), &asks.bytes(), given);
        let (_, told) = answer(outcome);
        // Too long for the field.
        assert_eq!((told.option(67), told.file()), (Some(url.as_bytes()), ""));
        let expected = if class.is_empty() { &b"HTTPClient"[..] } else { b"PXEClient" };
        assert_eq!(told.option(60), Some(expected));
    }
}

#[test]
fn an_address_is_offered_taken_and_renewed() {
    let mut server = giving();
    let (_, offer) = answer(ask(&mut server, SERVER_PORT, &Asks::new(1).pxe(0)));
    let address = offer.gives();
    assert_eq!((offer.kind(), offer.file()), (2, "undionly.kpxe"));
    assert_eq!(server.unkept(Instant::default()), None);
    let asks = Asks::new(3).pxe(0).address(54, US).address(50, address);
    let (to, ack) = taken(&mut server, &asks);
    assert_eq!((ack.kind(), ack.gives()), (5, address));
    assert_eq!(to.ip(), &Ipv4Addr::BROADCAST);
    assert_eq!(ack.option(1), Some(&[255, 255, 255, 0][..]));
    assert_eq!(ack.option(3), Some(&US.octets()[..]));
    assert_eq!(ack.option(6), Some(&[10, 0, 0, 1, 9, 9, 9, 9][..]));
    assert_eq!(ack.option(15), Some(&b"lan"[..]));
    assert_eq!(ack.option(12), Some(&b"node-7"[..]));
    assert_eq!(ack.option(51), Some(&3600_u32.to_be_bytes()[..]));
    // By unicast, from the address.
    let (to, renewed) = taken(&mut server, &Asks { uses: address, ..Asks::new(3) });
    assert_eq!((*to.ip(), renewed.kind(), renewed.gives()), (address, 5, address));
    // What it asks for once more it knows already.
    let (_, told) = answer(ask(&mut server, SERVER_PORT, &Asks { uses: address, ..Asks::new(8) }));
    assert_eq!((told.kind(), told.gives(), told.option(51)), (5, Ipv4Addr::UNSPECIFIED, None));
    // It is given back by who has it, and from there.
    let other = Ipv4Addr::new(10, 0, 0, if address.octets()[3] == 10 { 11 } else { 10 });
    for (uses, from, is_released) in [
        (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, false),
        (address, other, false),
        (other, other, false),
        (address, address, true),
        (address, address, false),
    ] {
        let asks = Asks { uses, ..Asks::new(7) }.bytes();
        let from = (SocketAddrV4::new(from, CLIENT_PORT), SERVER_PORT);
        let outcome = server.receive(Instant::default(), from, &asks, given);
        let expected = if is_released { Outcome::Changed } else { Outcome::Nothing };
        assert_eq!(outcome, expected, "{uses} from {from:?}");
    }
    let unkept = server.unkept(Instant::default());
    assert_eq!(unkept, Some(Unkept { leases: Vec::new(), answers: Vec::new() }));
}

/// Before it is remembered that a machine has an address nobody is told, and nobody who has given it back meanwhile.
#[test]
fn who_gives_an_address_back_at_once_isnt_told_that_he_has_it() {
    let mut server = giving();
    let address = answer(ask(&mut server, SERVER_PORT, &Asks::new(1))).1.gives();
    let takes = Asks::new(3).address(54, US).address(50, address);
    for _ in 0..2 {
        assert_eq!(ask(&mut server, SERVER_PORT, &takes), Outcome::Changed);
    }
    let gives_back = Asks { uses: address, ..Asks::new(7) }.bytes();
    let from = (SocketAddrV4::new(address, CLIENT_PORT), SERVER_PORT);
    let outcome = server.receive(Instant::default(), from, &gives_back, given);
    assert_eq!(outcome, Outcome::Changed);
    let unkept = server.unkept(Instant::default());
    assert_eq!(unkept, Some(Unkept { leases: Vec::new(), answers: Vec::new() }));
    // What couldn't be written is tried again, without anything new.
    server.not_kept();
    assert_eq!(server.unkept(Instant::default()), unkept);
}

#[test]
fn an_address_of_another_network_is_refused_loudly() {
    let mut server = giving();
    let elsewhere = Ipv4Addr::new(192, 168, 1, 5);
    for asks in [
        Asks::new(3).address(50, elsewhere),
        Asks { uses: elsewhere, ..Asks::new(3) },
        Asks::new(3).address(54, US).address(50, US),
    ] {
        let (to, told) = answer(ask(&mut server, SERVER_PORT, &asks));
        assert_eq!(
            (*to.ip(), told.kind(), told.gives()),
            (Ipv4Addr::BROADCAST, 6, Ipv4Addr::UNSPECIFIED)
        );
        assert_eq!((told.file(), told.option(1)), ("", None));
    }
    let informs = Asks { uses: elsewhere, ..Asks::new(8) };
    assert_eq!(ask(&mut server, SERVER_PORT, &informs), Outcome::Nothing);
}

#[test]
fn another_server_is_noticed() {
    let mut server = giving();
    let offered = answer(ask(&mut server, SERVER_PORT, &Asks::new(1))).1.gives();
    let other = Ipv4Addr::new(10, 0, 0, 99);
    let asks = Asks::new(3).address(54, other).address(50, offered);
    assert_eq!(ask(&mut server, SERVER_PORT, &asks), Outcome::AnotherServer(other));
    assert_eq!(server.unkept(Instant::default()), None);
    // What a machine has is not taken from it by who says so in its name.
    ask(&mut server, SERVER_PORT, &Asks::new(3).address(50, offered));
    assert_eq!(ask(&mut server, SERVER_PORT, &asks), Outcome::AnotherServer(other));
    assert_eq!(server.unkept(Instant::default()).unwrap().leases.len(), 1);
}

#[test]
fn nobody_elsewhere_is_written_to() {
    let mut server = giving();
    let elsewhere = Ipv4Addr::new(192, 168, 1, 5);
    let wanted = Ipv4Addr::new(10, 0, 0, 12);
    let asks = Asks { uses: elsewhere, ..Asks::new(3) }.address(50, wanted);
    let (to, told) = taken(&mut server, &asks);
    assert_eq!((*to.ip(), told.kind()), (Ipv4Addr::BROADCAST, 5));
}

#[test]
fn what_is_declined_is_offered_to_nobody() {
    let mut server = giving();
    let address = answer(ask(&mut server, SERVER_PORT, &Asks::new(1))).1.gives();
    let declines = Asks::new(4).address(50, address);
    assert_eq!(ask(&mut server, SERVER_PORT, &declines), Outcome::Changed);
    assert_eq!(ask(&mut server, SERVER_PORT, &declines), Outcome::Nothing);
    assert_ne!(answer(ask(&mut server, SERVER_PORT, &Asks::new(1))).1.gives(), address);
}

/// A client that takes little gets what it can't do without.
#[test]
fn a_reply_is_as_long_as_the_client_takes() {
    for (says, most) in [(0_u16, 548), (300, 548), (576, 548), (1000, 972), (9000, 1472)] {
        let asks = Asks::new(1).pxe(0).with(57, &says.to_be_bytes());
        let (mut server, name) = (giving(), "x".repeat(255));
        let given = |_: &Client| Some(Given(name.clone()));
        let outcome =
            server.receive(Instant::default(), (ANYBODY, SERVER_PORT), &asks.bytes(), given);
        let (_, told) = answer(outcome);
        assert!(told.0.len() <= most, "{says}: {}", told.0.len());
        assert_eq!(told.kind(), 2);
    }
}

proptest! {
    /// Whatever comes: nothing panics, and no answer goes to who is neither on the network nor asked.
    #[test]
    fn hostile_messages_are_harmless(
        mut bytes in prop::collection::vec(any::<u8>(), 0..700),
        looks_sound in any::<bool>(),
        port in prop_oneof![Just(SERVER_PORT), Just(PROXY_PORT)],
    ) {
        if looks_sound && bytes.len() > 240 {
            bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
            bytes[24..29].copy_from_slice(&[0, 0, 0, 0, 2]);
            bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
            let kind = bytes[240] % 9;
            bytes.splice(240..240, [53, 1, kind]);
        }
        for mut server in [giving(), Server::new(US, None)] {
            let from = SocketAddrV4::new([10, 0, 0, 5].into(), 1024);
            let outcome = server.receive(Instant::default(), (from, port), &bytes, given);
            let unkept = server.unkept(Instant::default());
            let answers = unkept.map(|unkept| unkept.answers).unwrap_or_default();
            let said = if let Outcome::Answered(answer) = outcome { Some(answer) } else { None };
            for answer in said.into_iter().chain(answers) {
                let to = *answer.to.ip();
                let is_near = to == Ipv4Addr::BROADCAST || to.octets().starts_with(&[10, 0, 0]);
                prop_assert!(is_near, "{to}");
                prop_assert!(answer.bytes.len() <= 1472);
            }
        }
    }
}

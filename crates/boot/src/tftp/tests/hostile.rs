//! Whatever arrives, from whomever and in whichever order: no panic, no growth, nothing beyond a file's end, and all
//! is over some time.

use proptest::prelude::*;

use super::*;

const SIZES: [u64; 5] = [0, 1, 512, 9999, u64::MAX];

#[derive(Clone, Debug)]
enum Act {
    Request {
        from: SocketAddrV4,
        packet: Vec<u8>,
    },
    /// The opened file of a request that has waited.
    Begin {
        which: usize,
        size: usize,
    },
    Receive {
        which: u64,
        from: Option<SocketAddrV4>,
        packet: Vec<u8>,
    },
    /// It acknowledges this many blocks of what was sent last, or of before.
    Acknowledge {
        which: u64,
        back: u16,
    },
    Wait {
        ms: u64,
    },
    Fail {
        which: u64,
    },
}

fn from() -> impl Strategy<Value = SocketAddrV4> {
    prop_oneof![
        20 => (1..6_u8, 4000..4004_u16).prop_map(|(host, port)| address(host, port)),
        1 => (any::<u32>(), any::<u16>()).prop_map(|(ip, port)| SocketAddrV4::new(ip.into(), port)),
    ]
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let number = any::<u16>().prop_map(|number| number.to_string());
    let value = prop_oneof![number, "[0-9a-z +-]{0,6}"];
    let option = ("(blksize|windowsize|timeout|tsize|x)", value)
        .prop_map(|(name, value)| format!("{name}\0{value}\0"));
    let options = proptest::collection::vec(option, 0..5).prop_map(|all| all.concat());
    let request = ("[a./\\\\]{0,6}", "(octet|OCTET|mail|)", options)
        .prop_map(|(name, mode, rest)| format!("\0\x01{name}\0{mode}\0{rest}").into_bytes());
    let anything = proptest::collection::vec(any::<u8>(), 0..40);
    let with_opcode =
        (0..8_u8, anything.clone()).prop_map(|(opcode, rest)| [vec![0, opcode], rest].concat());
    prop_oneof![
        6 => request,
        2 => Just(read("f", "")),
        2 => Just(read("f", "blksize\x008\0windowsize\x008\0")),
        1 => anything,
        2 => with_opcode,
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (from(), packet()).prop_map(|(from, packet)| Act::Request { from, packet }),
        4 => (0..4_usize, 0..SIZES.len()).prop_map(|(which, size)| Act::Begin { which, size }),
        1 => (0..8_u64, proptest::option::of(from()), packet())
            .prop_map(|(which, from, packet)| Act::Receive { which, from, packet }),
        8 => (0..8_u64, 0..10_u16).prop_map(|(which, back)| Act::Acknowledge { which, back }),
        2 => (0..3000_u64).prop_map(|ms| Act::Wait { ms }),
        1 => (0..8_u64).prop_map(|which| Act::Fail { which }),
    ]
}

/// What a server has said up to now.
#[derive(Default)]
struct Said {
    /// Those that aren't over, with their file's size, and the block that was sent last.
    open: Vec<(TransferId, u64, u16)>,
    out: Vec<Effect>,
}

impl Said {
    /// Looks at what was said at once.
    fn look(&mut self, windows: usize) {
        assert!(self.out.len() <= windows * 9, "{}", self.out.len());
        for effect in self.out.drain(..) {
            match effect {
                Effect::Send { id, what: Outgoing::Data { block, offset, len }, .. } => {
                    let known = self.open.iter_mut().find(|(known, ..)| *known == id).unwrap();
                    assert!(offset.checked_add(len as u64).unwrap() <= known.1 && len <= 512);
                    known.2 = block;
                }
                Effect::Send { what: Outgoing::Packet(packet), .. } => assert!(packet.len() < 100),
                Effect::Over { id, .. } => {
                    let known = self.open.iter().position(|(known, ..)| *known == id).unwrap();
                    self.open.remove(known);
                }
            }
        }
    }

    fn nth(&self, which: u64) -> Option<(TransferId, u16)> {
        let place = which.checked_rem(self.open.len() as u64)?;
        self.open.get(place as usize).map(|(id, _, block)| (*id, *block))
    }
}

proptest! {
    #[test]
    fn nothing_that_arrives_is_too_much(acts in proptest::collection::vec(act(), 0..300)) {
        let limits =
            Limits { transfers: 10, per_address: 3, unanswered: 5, blksize: 100, windowsize: 8 };
        let mut server = Server::new(limits);
        let (mut said, mut openings, mut now) = (Said::default(), Vec::new(), at(1));
        for act in acts {
            match act {
                Act::Request { from, packet } => {
                    match server.request(now, from, &packet, &mut said.out) {
                        Ok(Some(opening)) => openings.push(opening),
                        Ok(None) => {}
                        Err(refused) => assert!(refused.packet().len() < 60),
                    }
                }
                Act::Begin { which, size } if which < openings.len() => {
                    let opening = openings.remove(which);
                    let begun = server.begin(now, opening, SIZES[size], &mut said.out);
                    if let Ok(Some(id)) = begun {
                        said.open.push((id, SIZES[size], 0));
                    }
                }
                Act::Begin { .. } => {}
                Act::Receive { which, from, packet } => {
                    if let Some((id, _)) = said.nth(which) {
                        let client = server.opening(id).unwrap().client();
                        let from = from.unwrap_or(client);
                        server.receive(now, id, from, &packet, &mut said.out);
                    }
                }
                Act::Acknowledge { which, back } => {
                    if let Some((id, block)) = said.nth(which) {
                        let client = server.opening(id).unwrap().client();
                        let packet = ack(block.wrapping_sub(back));
                        server.receive(now, id, client, &packet, &mut said.out);
                    }
                }
                Act::Wait { ms } => {
                    now = now + std::time::Duration::from_millis(ms);
                    server.poll(now, &mut said.out);
                }
                Act::Fail { which } => {
                    if let Some((id, _)) = said.nth(which) {
                        server.fail(id, &mut said.out);
                    }
                }
            }
            said.look(10);
            server.check();
            prop_assert_eq!(server.len(), said.open.len());
            prop_assert_eq!(server.deadline().is_some(), !server.is_empty());
        }
        // Left alone it comes to an end.
        let begun = now;
        while let Some(due) = server.deadline() {
            now = now.max(due);
            server.poll(now, &mut said.out);
            said.look(10);
        }
        prop_assert!(now.since(begun).as_secs() <= 61 && said.open.is_empty());
    }

    #[test]
    fn no_bytes_are_too_much(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 0..20),
        opcode in 0..8_u8,
    ) {
        let mut server = Server::new(Limits::default());
        let mut out = Vec::new();
        let client = address(2, 4000);
        let opening = server.request(at(0), client, &read("f", ""), &mut out).unwrap().unwrap();
        let id = server.begin(at(0), opening, 5000, &mut out).unwrap().unwrap();
        for packet in packets {
            let packet = [&[0, opcode], packet.as_slice()].concat();
            let _ = server.request(at(0), address(3, 4000), &packet, &mut out);
            server.receive(at(0), id, client, &packet, &mut out);
            server.check();
        }
        prop_assert!(out.len() <= 30);
    }
}

//! What firmware of real machines asks for, as people have recorded it and put it into the tests of other DHCP servers.
//! The emulators that our own tests boot know three firmwares; old PCs have others.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddrV4};

use block::Instant;
use uuid::{Uuid, uuid};

use super::message::Request;
use super::{Architecture, Client, Given, Outcome, Program, SERVER_PORT, Server};

/// A recorded request: what isn't zero of it.
struct Recorded {
    of: &'static str,
    /// From the first byte to the fields of addresses, which are zero.
    head: &'static str,
    mac: &'static str,
    /// Behind the cookie, to the end of the options.
    options: &'static str,
    /// Of all of it, zeros behind the options included.
    len_bytes: usize,
    says: (Program, Architecture, Uuid),
}

const ALL: [Recorded; 4] = [
    Recorded {
        of: "BIOS, Intel's PXE 2.1 in Hyper-V's emulated adapter",
        head: "010106025e00503000048000",
        mac: "00155d005030",
        options: "350101371801020305060b0c0d0f1011122b363c438081828384858687390204ec61110086257cde4edc8a4e8940a484\
                  7f362d095d0200005e030102013c20505845436c69656e743a417263683a30303030303a554e44493a303032303031ff",
        len_bytes: 548,
        says: (Program::Pxe, Architecture::Bios, uuid!("de7c2586-dc4e-4e8a-8940-a4847f362d09")),
    },
    Recorded {
        of: "BIOS, Hewlett-Packard 2012",
        head: "0101060029104a2e00048000",
        mac: "e83935bdab2a",
        options: "350101371801020305060b0c0d0f1011122b363c438081828384858687390204ec61110000000000303032313238313034\
                  4132455d0200005e030102013c20505845436c69656e743a417263683a30303030303a554e44493a303032303031ff",
        len_bytes: 548,
        says: (Program::Pxe, Architecture::Bios, uuid!("00000000-3030-3132-3238-313034413245")),
    },
    // It passes for a PC.
    Recorded {
        of: "Raspberry Pi 3",
        head: "0101060026f3033900000000",
        mac: "b827eb9b65d4",
        options: "350101370e2b3c4380818283848586874201035d0200005e03010201611100d4659bbdd4659bbdd4659bbdd4659bbd3c20\
                  505845436c69656e743a417263683a30303030303a554e44493a303032303031ff",
        len_bytes: 0,
        says: (Program::Pxe, Architecture::Bios, uuid!("bd9b65d4-65d4-bd9b-d465-9bbdd4659bbd")),
    },
    Recorded {
        of: "UEFI that boots by HTTP",
        head: "010106009d9ff87900048000",
        mac: "60beb4061337",
        options: "350101390205c0371b0102030405060c0d0f111216171c28292a2b3233363a3b3ccc4361611100000200030004000500060007\
                  000800095e030103105d0200103c2148545450436c69656e743a417263683a30303031363a554e44493a303033303136ff",
        len_bytes: 0,
        says: (Program::Http, Architecture::EfiX64, uuid!("03000200-0400-0500-0006-000700080009")),
    },
];

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

impl Recorded {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 236];
        let (head, mac) = (bytes_of(self.head), bytes_of(self.mac));
        bytes[..head.len()].copy_from_slice(&head);
        bytes[28..34].copy_from_slice(&mac);
        bytes.extend([99, 130, 83, 99]);
        bytes.extend(bytes_of(self.options));
        bytes.resize(bytes.len().max(self.len_bytes), 0);
        bytes
    }
}

#[test]
fn firmware_of_real_machines_is_understood_and_told_what_to_load() {
    let us = Ipv4Addr::new(10, 0, 0, 1);
    for recorded in ALL {
        let (of, bytes) = (recorded.of, recorded.bytes());
        let client = Request::parse(&bytes).unwrap().client;
        let (program, architecture, uuid) = recorded.says;
        assert_eq!((client.program, client.architecture), (program, architecture), "{of}");
        assert_eq!(client.uuid, Some(uuid), "{of}");
        let mac = client.mac.to_string().replace(':', "");
        assert_eq!(mac, recorded.mac, "{of}");

        let file = match program {
            Program::Http => "http://10.0.0.1:8069/ipxe.efi",
            _ => "undionly.kpxe",
        };
        let given = |_: &Client| Some(Given(file.into()));
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
        let outcome =
            Server::new(us, None).receive(Instant::default(), (from, SERVER_PORT), &bytes, given);
        let Outcome::Answered(answer) = outcome else { panic!("{of}: {outcome:?}") };
        assert_eq!(answer.to, SocketAddrV4::new(Ipv4Addr::BROADCAST, 68), "{of}");
        let packet = smoltcp::wire::DhcpPacket::new_checked(&answer.bytes[..]).unwrap();
        assert_eq!(packet.transaction_id().to_be_bytes(), bytes[4..8], "{of}");
        assert_eq!(packet.client_hardware_address().0, bytes[28..34], "{of}");
        assert!(answer.bytes.len() >= 300, "{of}: old ones drop what is shorter than BOOTP's");
        let has = |what: &[u8]| answer.bytes.windows(what.len()).any(|part| part == what);
        assert!(has(file.as_bytes()), "{of}");
        // What it said of itself it hears back: firmware ignores offers without.
        assert!(has(&[&[97, 17, 0], &uuid.to_bytes_le()[..]].concat()), "{of}");
        assert!(has(if program == Program::Http { b"HTTPClient" } else { b"PXEClient" }), "{of}");
    }
}

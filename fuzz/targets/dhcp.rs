//! The bytes as messages to a boot server that gives out addresses, and to one beside another that does: each begins with
//! its length, and how many minutes passed before it.
#![no_main]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use block::Instant;
use boot::dhcp::{
    Addresses, Client, Given, Leases, Network, Outcome, PROXY_PORT, Range, SERVER_PORT, Server,
};

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Addresses to give out: few, so that they are all gone soon.
const COUNT: u8 = 8;

fn servers() -> [Server; 2] {
    let range = Range::new([10, 0, 0, 100].into(), [10, 0, 0, 99 + COUNT].into(), 24)
        .expect("a range of one network");
    let network = Network {
        names: BTreeMap::new(),
        router: Some(SERVER),
        name_servers: vec![SERVER],
        domain: Some("lan".to_owned()),
        lease: Duration::from_secs(3600),
    };
    let leases = Leases::new(range, BTreeMap::new(), vec![SERVER]);
    [Server::new(SERVER, Some(Addresses { leases, network })), Server::new(SERVER, None)]
}

fn given(client: &Client) -> Option<Given> {
    Some(Given(format!("http://10.0.0.1:8069/boot.ipxe?mac={}", client.mac)))
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut servers = servers();
    let (mut rest, mut now) = (bytes, Instant::default());
    while let [high, low, minutes, messages @ ..] = rest {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(messages.len());
        let (message, next) = messages.split_at(len);
        now = now + Duration::from_secs(60 * u64::from(*minutes));
        for server in &mut servers {
            for port in [SERVER_PORT, PROXY_PORT] {
                let from = SocketAddrV4::new([10, 0, 0, 5].into(), 68);
                if let Outcome::Answered(answer) = server.receive(now, (from, port), message, given) {
                    assert!(answer.bytes.len() <= 1472, "it doesn't fit a frame");
                }
            }
            // Gathered by the minute.
            if *minutes > 0 && let Some(unkept) = server.unkept(now) {
                assert!(unkept.leases.len() <= usize::from(COUNT), "more leases than addresses");
                assert!(unkept.answers.len() <= usize::from(COUNT), "more answers than addresses");
                assert!(unkept.answers.iter().all(|answer| answer.bytes.len() <= 1472));
            }
        }
        rest = next;
    }
});

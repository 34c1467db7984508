//! The bytes as what happens to a TFTP server: each begins with what it is, of whom, and its length.
#![no_main]

use std::net::SocketAddrV4;
use std::time::Duration;

use block::Instant;
use boot::tftp::{Effect, Limits, Server, TransferId};

const LIMITS: Limits =
    Limits { transfers: 10, per_address: 3, unanswered: 5, blksize: 100, windowsize: 8 };
/// Of what is said at once: two windows, and who gave way.
const EFFECTS_MAX: usize = 64 * 32;

/// One of four clients at eight machines.
fn client(of: u8) -> SocketAddrV4 {
    SocketAddrV4::new([10, 0, 0, 2 + (of >> 2) % 8].into(), 4000 + u16::from(of % 4))
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (mut server, mut rest, mut now) = (Server::new(LIMITS), bytes, Instant::default());
    let mut begun: Vec<TransferId> = Vec::new();
    while let [what, of, len, packets @ ..] = rest {
        let (packet, next) = packets.split_at(usize::from(*len).min(packets.len()));
        let mut effects: Vec<Effect> = Vec::new();
        let from = client(*of);
        let which = begun.get(usize::from(what >> 2) % begun.len().max(1)).copied();
        match (what % 4, which) {
            (0, _) => {
                if let Ok(Some(opening)) = server.request(now, from, packet, &mut effects) {
                    let size = u64::from(*len) << (of % 16);
                    let id = server.begin(now, opening, size, &mut effects);
                    begun.extend(id.ok().flatten());
                }
            }
            // Mostly of who has asked for it.
            (1, Some(id)) => {
                let own = server.opening(id).map(|opening| opening.client());
                let from = own.filter(|_| of % 8 > 0).unwrap_or(from);
                server.receive(now, id, from, packet, &mut effects);
            }
            (2, Some(id)) if *of == 0 => server.fail(id, &mut effects),
            _ => {
                now = now + Duration::from_millis(10 * u64::from(*of));
                server.poll(now, &mut effects);
            }
        }
        assert!(server.len() <= LIMITS.transfers, "{} transfers", server.len());
        assert!(effects.len() <= EFFECTS_MAX, "{} things are said at once", effects.len());
        assert_eq!(server.deadline().is_some(), !server.is_empty());
        rest = next;
    }
});

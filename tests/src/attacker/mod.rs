//! Somebody on the lab's network who hears all frames and sends what he likes, under any address.

mod flood;
mod impostor;
mod middle;
mod said;
mod stranger;
pub mod tape;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use block::OwnerId;
use os::net::{FrameSocket, InterfaceSpec};

use crate::Lab;
use crate::lab::ip;

pub use flood::{Flood, FloodOf};
pub use impostor::{Impostor, Victim};
pub use middle::Middle;
pub use said::{CHANGES, HELLO, NO_SESSION, OPEN, OTHER_DATA, READ, Said};
pub use stranger::{Answer, Stranger, any_key};

/// A machine of his at the lab's switch.
pub struct Attacker {
    interface: InterfaceSpec,
}

/// What forged writes write.
pub const FORGED: u8 = 0xee;
/// Where, in sectors: somewhere in the middle of a disk.
pub const FORGED_AT: u64 = 500_000;

/// As whom he claims.
pub fn thief() -> OwnerId {
    OwnerId(uuid::Uuid::from_u128(666))
}

/// All frames of a while.
pub type Tape = Vec<Vec<u8>>;

/// Somebody who listens until he is asked what he heard.
pub struct Ear {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Tape>,
}

impl Attacker {
    /// Plugs him in at a switch that sends every frame to all.
    pub fn plug_in(lab: &Lab) -> Attacker {
        let attacker = Attacker { interface: lab.plug_in("att1") };
        attacker.hears_all(true);
        attacker
    }

    /// Whether the switch forgets at once who is where, or learns it from what is sent, as switches do.
    pub fn hears_all(&self, all: bool) {
        let ageing = if all { 0 } else { 30_000 };
        self.ip(&format!("link set br0 type bridge ageing_time {ageing} fdb_flush"));
    }

    /// `ip` in the switch's namespace.
    pub fn ip(&self, words: &str) {
        ip(self.interface.netns.as_deref().unwrap_or_default(), words);
    }

    /// His interface.
    pub fn interface(&self) -> &InterfaceSpec {
        &self.interface
    }

    /// Another one of the switch's namespace.
    pub fn port(&self, name: &str) -> InterfaceSpec {
        InterfaceSpec { name: name.to_owned(), ..self.interface.clone() }
    }

    /// A socket for all frames.
    pub fn socket(&self) -> FrameSocket {
        FrameSocket::open(&self.interface, None).unwrap()
    }

    /// Begins to listen.
    pub fn listen(&self) -> Ear {
        let mut socket = self.socket();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut tape = Tape::new();
            let mut is_last = false;
            loop {
                while socket.receive(&mut |frame| tape.push(frame.to_vec())).unwrap() > 0 {}
                if is_last {
                    return tape;
                }
                // Once more after that: what was sent before it was asked is on the tape.
                is_last = stopped.load(Ordering::Relaxed);
                socket.wait(Duration::from_millis(20)).unwrap();
            }
        });
        Ear { stop, thread }
    }

    /// Sends frames as they are, so slowly that whom they are for hears them all.
    pub fn send<'a>(&self, frames: impl IntoIterator<Item = &'a [u8]>) -> usize {
        let socket = self.socket();
        let frames: Vec<&[u8]> = frames.into_iter().collect();
        for batch in frames.chunks(32) {
            let mut sent = 0;
            while sent < batch.len() {
                sent += socket.send(&batch[sent..]).unwrap();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        frames.len()
    }
}

impl Ear {
    /// What it has heard.
    pub fn stop(self) -> Tape {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

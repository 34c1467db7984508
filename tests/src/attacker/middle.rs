//! Somebody between a node and the switch: all that they say to each other goes through his hands.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use os::net::FrameSocket;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Attacker;
use super::said::Said;

const RELAYS: u8 = 0;
const CHANGES: u8 = 1;
const ENDS: u8 = 2;

/// At work until he is taken out.
pub struct Middle {
    node_port: String,
    mode: Arc<AtomicU8>,
    passed: Arc<AtomicU64>,
    changed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Middle {
    /// Takes the node's cable out of the switch, and puts himself between.
    pub fn step_in(attacker: &Attacker, node: &str) -> Middle {
        let node_port = format!("p{node}");
        attacker.ip("link add mid1 mtu 9000 type veth peer name pmid1 mtu 9000");
        attacker.ip("link set mid1 up");
        attacker.ip(&format!("link set {node_port} nomaster"));
        attacker.ip("link set pmid1 master br0 up");
        let open = |name: &str| FrameSocket::open(&attacker.port(name), None).unwrap();
        let (mode, passed, changed) = (Arc::default(), Arc::default(), Arc::default());
        let mut middle =
            Middle { node_port: node_port.clone(), mode, passed, changed, threads: Vec::new() };
        for (seed, ends) in [(1, ["mid1", node_port.as_str()]), (2, [node_port.as_str(), "mid1"])] {
            let [from, to] = ends.map(open);
            middle.relay(seed, from, to);
        }
        middle
    }

    fn relay(&mut self, seed: u64, mut from: FrameSocket, to: FrameSocket) {
        let mode = Arc::clone(&self.mode);
        let (passed, changed) = (Arc::clone(&self.passed), Arc::clone(&self.changed));
        let mut random = SmallRng::seed_from_u64(seed);
        self.threads.push(std::thread::spawn(move || {
            let mut before: Option<Vec<u8>> = None;
            loop {
                let now = mode.load(Ordering::Relaxed);
                if now == ENDS {
                    return;
                }
                from.wait(Duration::from_millis(10)).unwrap();
                let mut frames = Vec::new();
                from.receive(&mut |frame| frames.push(frame.to_vec())).unwrap();
                for frame in frames {
                    passed.fetch_add(1, Ordering::Relaxed);
                    if now == RELAYS || random.random_range(0..4) > 0 {
                        to.send(&[&frame]).unwrap();
                    } else {
                        changed.fetch_add(1, Ordering::Relaxed);
                        interfere(&to, &frame, before.as_deref(), &mut random);
                    }
                    before = Some(frame);
                }
            }
        }));
    }

    /// From now on a quarter of all that passes doesn't as it came.
    pub fn change(&self) {
        self.mode.store(CHANGES, Ordering::Relaxed);
    }

    /// From now on everything passes.
    pub fn relay_only(&self) {
        self.mode.store(RELAYS, Ordering::Relaxed);
    }

    /// Frames that went through his hands, and those that he didn't leave as they were.
    pub fn counts(&self) -> (u64, u64) {
        (self.passed.load(Ordering::Relaxed), self.changed.load(Ordering::Relaxed))
    }

    /// The cable is where it was.
    pub fn step_out(self, attacker: &Attacker) {
        self.mode.store(ENDS, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        attacker.ip("link del mid1");
        attacker.ip(&format!("link set {} master br0", self.node_port));
    }
}

/// Instead of a frame: others.
fn interfere(to: &FrameSocket, frame: &[u8], before: Option<&[u8]>, random: &mut SmallRng) {
    let other = before.unwrap_or(frame);
    let sent = match random.random_range(0..6) {
        // It is held up, and comes behind the next one of its kind; or twice.
        0 => vec![other.to_vec(), frame.to_vec(), frame.to_vec()],
        // Never.
        1 => Vec::new(),
        2 | 3 => Said::all_of(frame).map(|message| message.with_other_data()).collect(),
        _ => {
            let others = Said::all_of(other).chain(Said::all_of(frame)).next();
            let said = Said::all_of(frame).zip(others.into_iter().cycle());
            said.map(|(message, other)| message.changed(other, random)).collect()
        }
    };
    let sent: Vec<&[u8]> = sent.iter().map(Vec::as_slice).collect();
    to.send(&sent).unwrap();
}

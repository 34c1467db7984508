//! Scripts against the target: frames in, frames and device requests out, no I/O.
#![allow(clippy::unwrap_used)]

mod access;
mod change;
mod features;
mod fence;
mod fragments;
mod hostile;
mod merging;
mod meter;
mod order;
mod owner;
mod plain;
mod power;
mod probe;
mod rate;
mod recent;
mod rules;
mod session;
mod strangers;
mod unheard;

use std::collections::VecDeque;
use std::time::Duration;

use block::{
    Answer, Buffer, Completion, DurabilityClass, Geometry, Holder, Instance, Instant, IoError,
    OwnerId,
};

use super::*;
use crate::fenced::Ownership;
use aoe_wire::*;

pub(super) const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(super) const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub(super) const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
pub(super) const ADDRESS: ShelfSlot = ShelfSlot { shelf: 194, slot: 3 };
pub(super) const SECTORS: u64 = 1000;
pub(super) const PORT: PortId = PortId(1);
pub(super) const OPEN: Ownership = Ownership::Unclaimed { labelled: false };

pub(super) fn owner(n: u8) -> OwnerId {
    OwnerId(uuid::Uuid::from_bytes([n; 16]))
}

pub(super) fn held(epoch: u64, by: u8) -> Ownership {
    Ownership::Held(Holder::new(block::Epoch(epoch), owner(by)))
}

pub(super) fn device(ownership: Ownership) -> DeviceState {
    DeviceState {
        geometry: Geometry {
            sectors: SECTORS,
            physical_block_bytes: 512,
            max_transfer_bytes: 1 << 20,
            read_only: false,
            class: DurabilityClass::Durable,
        },
        instance: Instance(77),
        ownership,
        labelled: [None; 2],
        grant: None,
    }
}

/// A target with one export on one port, and its disk in the test's hands.
pub(super) struct Bench {
    pub target: Target,
    pub now: Instant,
    pub export: ExportId,
    pub io: VecDeque<IoRequest>,
    pub sent: VecDeque<Vec<u8>>,
    /// What was put on stable storage.
    pub stored: Vec<Remembered>,
    /// What the disk itself says to SMART commands.
    pub smart: Option<SmartReply>,
    pub disk: Vec<u8>,
    pub instance: Instance,
}

impl Bench {
    pub(super) fn new(ownership: Ownership, change: impl FnOnce(&mut ExportOptions)) -> Bench {
        Bench::with(Abilities::default(), ownership, change)
    }

    pub(super) fn with(
        abilities: Abilities,
        ownership: Ownership,
        change: impl FnOnce(&mut ExportOptions),
    ) -> Bench {
        let node = NodeIdentity { id: uuid::Uuid::from_bytes([9; 16]), name: "node-194".into() };
        let mut target = Target::new(node, 1);
        target.set_port(PORT, "eth0".into(), SERVER, 9000);
        let mut options = ExportOptions::new(ADDRESS, "disk");
        change(&mut options);
        let export = target.add_export(options, device(ownership), abilities).unwrap();
        let mut bench = Bench {
            target,
            now: Instant::from_nanos(1_000_000_000),
            export,
            io: VecDeque::new(),
            sent: VecDeque::new(),
            stored: Vec::new(),
            smart: None,
            disk: vec![0; SECTORS as usize * 512],
            instance: Instance(77),
        };
        bench.collect();
        // The announcement has a test of its own.
        bench.sent.clear();
        bench
    }

    pub(super) fn collect(&mut self) {
        while let Some(request) = self.target.poll_io() {
            self.io.push_back(request);
        }
        while let Some((_, frame)) = self.target.poll_transmit() {
            self.sent.push_back([frame.head.as_slice(), &frame.payload].concat());
        }
    }

    pub(super) fn frame(&mut self, frame: &[u8]) {
        self.target.handle_frame(self.now, PORT, frame);
        self.collect();
    }

    pub(super) fn send(&mut self, frame: &Frame) {
        self.frame(&[frame.head.as_slice(), &frame.payload].concat());
    }

    pub(super) fn complete(&mut self, id: IoId, result: Result<Answer, IoError>) {
        self.complete_with(id, result.map(IoValue::Device));
    }

    fn complete_with(&mut self, id: IoId, result: Result<IoValue, IoError>) {
        let result = result.map(|value| Completion::new(self.instance, value));
        self.target.handle_io_done(self.now, id, result);
        self.collect();
    }

    /// The disk does what was asked for, in order, until nothing is.
    pub(super) fn serve(&mut self) {
        while let Some(request) = self.io.pop_front() {
            let value = match request.operation {
                IoOperation::Remember(state) => {
                    self.stored.push(state);
                    IoValue::Device(Answer::Done)
                }
                IoOperation::Smart(_) => IoValue::Smart(self.smart.clone().unwrap()),
                IoOperation::Device(operation) => IoValue::Device(self.perform(operation)),
            };
            self.complete_with(request.id, Ok(value));
        }
    }

    fn perform(&mut self, operation: block::Operation) -> Answer {
        match operation {
            block::Operation::Claim(claim) => Answer::Holder(Holder::new(claim.epoch, claim.owner)),
            operation => operation.perform_on(&mut self.disk).unwrap(),
        }
    }

    pub(super) fn reply(&mut self) -> Vec<u8> {
        assert_eq!(self.sent.len(), 1, "want one reply");
        self.sent.pop_front().unwrap()
    }

    pub(super) fn silence(&mut self) {
        assert!(self.sent.is_empty() && self.io.is_empty(), "want silence");
    }

    pub(super) fn stats(&self) -> ExportStats {
        self.target.export_status(self.export).unwrap().stats
    }

    pub(super) fn pass(&mut self, duration: Duration) {
        self.now = self.now + duration;
        if self.target.poll_timeout().is_some_and(|at| at <= self.now) {
            self.target.handle_timeout(self.now);
        }
    }
}

pub(super) fn header(command: Command) -> Header {
    Header::request(SERVER, CLIENT, ADDRESS, command, 0x1234)
}

//! Tests of the server as a whole. The opposite end is a model of a client, and between both is a network that loses,
//! repeats and delays packets.

#![allow(clippy::unwrap_used)]

mod client;
mod hostile;
mod network;
mod served;
mod whole;

use std::net::{Ipv4Addr, SocketAddrV4};

use block::Instant;

use super::*;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

/// A port of a machine of the network that is served.
fn address(host: u8, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, host), port)
}

/// A read request; options as they are in packets.
fn read(name: &str, options: &str) -> Vec<u8> {
    format!("\0\x01{name}\0octet\0{options}").into_bytes()
}

fn ack(block: u16) -> Vec<u8> {
    [[0, 4], block.to_be_bytes()].concat()
}

/// A byte of the file that everybody reads.
fn byte_at(offset: u64) -> u8 {
    (offset.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

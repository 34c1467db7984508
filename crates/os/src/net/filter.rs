//! The classic BPF program of a packet port. The kernel drops what the port isn't for before it
//! costs a copy: replies on a port for requests and the other way round, frames for others, and our
//! own frames on kernels that can't ignore outgoing ones.

use super::packet::Role;

const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const IF_SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
const ETHERTYPE_AT: u32 = 12;
const FLAGS_AT: u32 = 14;
const FLAG_RESPONSE: u32 = 0x08;
const ACCEPT: u32 = u32::MAX;

fn instruction(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// The program for `role`. A load beyond the end of a short frame drops it.
pub(super) fn program(role: Role) -> [libc::sock_filter; 8] {
    let (jump_set, jump_clear) = match role {
        Role::Requests => (1, 0),
        Role::Replies => (0, 1),
    };
    [
        instruction(LOAD_BYTE, PACKET_TYPE, 0, 0),
        // For us, to all, to a group; not for others (3) and not from us (4).
        instruction(IF_GREATER, libc::PACKET_MULTICAST as u32, 5, 0),
        instruction(LOAD_HALF, ETHERTYPE_AT, 0, 0),
        instruction(IF_EQUAL, super::packet::ETHERTYPE_AOE.into(), 0, 3),
        instruction(LOAD_BYTE, FLAGS_AT, 0, 0),
        instruction(IF_SET, FLAG_RESPONSE, jump_set, jump_clear),
        instruction(RETURN, ACCEPT, 0, 0),
        instruction(RETURN, 0, 0, 0),
    ]
}

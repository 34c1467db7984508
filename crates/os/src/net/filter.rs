//! The classic BPF program of a packet port. The kernel drops what the port isn't for before it
//! costs a copy: most replies on a port for requests and the other way round, frames for others, and our
//! own frames on kernels that can't ignore outgoing ones.

use super::packet::Role;

const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const LOAD_HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const IF_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const IF_SET: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
const LOAD_HALF_BEHIND: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_IND) as u16;
const LOAD_HEADER_LENGTH: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;

const ETHERTYPE_AT: u32 = 12;
const FLAGS_AT: u32 = 14;
const FLAG_RESPONSE: u32 = 0x08;
const COMMAND_AT: u32 = 19;
const PROTOCOL_AT: u32 = 14 + 9;
/// The length of the IPv4 header at this offset goes to the index register (`BPF_MSH`).
const IPV4_AT: u32 = 14;
/// Behind that header, in UDP's.
const UDP_TARGET_PORT_AT: u32 = 14 + 2;
const DHCP_CLIENT_PORT: u32 = 68;
const COMMAND_CONFIG: u32 = 1;
const ACCEPT: u32 = u32::MAX;

fn instruction(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// The program for `role`. A load beyond the end of a short frame drops it.
///
/// A port for requests also gets answers to config queries: one for an address of ours means that
/// somebody else has it too.
pub(super) fn program(role: Role) -> [libc::sock_filter; 10] {
    // Where to go on when the response flag is set, and when it isn't: to the command, to the end
    // that takes the frame, or to the one that drops it.
    let (if_response, if_request) = match role {
        Role::Requests => (0, 2),
        Role::Replies => (2, 3),
        Role::Answers => (0, 3),
    };
    [
        instruction(LOAD_BYTE, PACKET_TYPE, 0, 0),
        // For us, to all, to a group; not for others (3) and not from us (4).
        instruction(IF_GREATER, libc::PACKET_MULTICAST as u32, 7, 0),
        instruction(LOAD_HALF, ETHERTYPE_AT, 0, 0),
        instruction(IF_EQUAL, super::packet::ETHERTYPE_AOE.into(), 0, 5),
        instruction(LOAD_BYTE, FLAGS_AT, 0, 0),
        instruction(IF_SET, FLAG_RESPONSE, if_response, if_request),
        instruction(LOAD_BYTE, COMMAND_AT, 0, 0),
        instruction(IF_EQUAL, COMMAND_CONFIG, 0, 1),
        instruction(RETURN, ACCEPT, 0, 0),
        instruction(RETURN, 0, 0, 0),
    ]
}

/// The program for a client of DHCP: UDP to its port, and ARP.
pub(super) fn dhcp_program() -> [libc::sock_filter; 12] {
    [
        instruction(LOAD_BYTE, PACKET_TYPE, 0, 0),
        instruction(IF_GREATER, libc::PACKET_MULTICAST as u32, 9, 0),
        instruction(LOAD_HALF, ETHERTYPE_AT, 0, 0),
        instruction(IF_EQUAL, libc::ETH_P_ARP as u32, 6, 0),
        instruction(IF_EQUAL, libc::ETH_P_IP as u32, 0, 6),
        instruction(LOAD_BYTE, PROTOCOL_AT, 0, 0),
        instruction(IF_EQUAL, libc::IPPROTO_UDP as u32, 0, 4),
        instruction(LOAD_HEADER_LENGTH, IPV4_AT, 0, 0),
        instruction(LOAD_HALF_BEHIND, UDP_TARGET_PORT_AT, 0, 0),
        instruction(IF_EQUAL, DHCP_CLIENT_PORT, 0, 1),
        instruction(RETURN, ACCEPT, 0, 0),
        instruction(RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does, as far as ours go.
    fn accepts(role: Role, packet_type: u32, frame: &[u8]) -> bool {
        takes(&program(role), packet_type, frame)
    }

    fn takes(program: &[libc::sock_filter], packet_type: u32, frame: &[u8]) -> bool {
        let (mut at, mut accumulator, mut index) = (0, 0, 0);
        loop {
            let libc::sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let load = |len: usize| {
                let from = k as usize + if code == LOAD_HALF_BEHIND { index } else { 0 };
                let bytes = frame.get(from..from + len)?;
                Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
            };
            let jump = match code {
                LOAD_BYTE if k == PACKET_TYPE => {
                    accumulator = packet_type;
                    continue;
                }
                LOAD_HEADER_LENGTH => {
                    let Some(value) = load(1) else { return false };
                    index = 4 * (value as usize & 0xf);
                    continue;
                }
                LOAD_BYTE | LOAD_HALF | LOAD_HALF_BEHIND => {
                    let Some(value) = load(if code == LOAD_BYTE { 1 } else { 2 }) else {
                        return false;
                    };
                    accumulator = value;
                    continue;
                }
                IF_EQUAL => accumulator == k,
                IF_GREATER => accumulator > k,
                IF_SET => accumulator & k != 0,
                RETURN => return k != 0,
                other => panic!("unknown instruction {other:#x}"),
            };
            at += usize::from(if jump { jt } else { jf });
        }
    }

    #[test]
    fn each_role_gets_its_frames() {
        let frame = |ethertype: u16, flags: u8, command: u8| {
            let mut frame = [0; 32];
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            frame[14] = flags;
            frame[19] = command;
            frame
        };
        // Ethertype, flags, command; whether a port for requests and one for replies take it.
        for (ethertype, flags, command, requests, replies) in [
            (0x88a2, 0x10, 0, true, false),
            (0x88a2, 0x10, 1, true, false),
            (0x88a2, 0x13, 0xf0, true, false),
            (0x88a2, 0x18, 0, false, true),
            (0x88a2, 0x18, 1, true, true),
            (0x88a2, 0x1c, 1, true, true),
            (0x88a2, 0x18, 2, false, true),
            (0x88a2, 0x18, 0xf0, false, true),
            (0x0800, 0x10, 0, false, false),
            (0x0800, 0x18, 1, false, false),
        ] {
            let frame = frame(ethertype, flags, command);
            for (packet_type, heard) in [(0, true), (1, true), (2, true), (3, false), (4, false)] {
                let took =
                    [Role::Requests, Role::Replies].map(|role| accepts(role, packet_type, &frame));
                assert_eq!(took, [requests && heard, replies && heard], "{frame:x?} {packet_type}");
                let answer = replies && command == 1;
                assert_eq!(accepts(Role::Answers, packet_type, &frame), answer && heard);
            }
            assert!(!accepts(Role::Requests, 0, &frame[..14]));
            assert!(!accepts(Role::Replies, 0, &frame[..13]));
        }
    }

    #[test]
    fn a_client_of_dhcp_hears_only_what_is_for_it() {
        let frame = |ethertype: u16, protocol: u8, header_words: u8, port: u16| {
            let mut frame = [0; 64];
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            frame[14] = 0x40 | header_words;
            frame[23] = protocol;
            let udp = 14 + 4 * usize::from(header_words);
            frame[udp + 2..udp + 4].copy_from_slice(&port.to_be_bytes());
            frame
        };
        let program = dhcp_program();
        for (frame, heard) in [
            (frame(0x0800, 17, 5, 68), true),
            (frame(0x0800, 17, 6, 68), true),
            (frame(0x0806, 0, 0, 0), true),
            (frame(0x0800, 17, 5, 67), false),
            (frame(0x0800, 6, 5, 68), false),
            (frame(0x86dd, 17, 5, 68), false),
            (frame(0x88a2, 17, 5, 68), false),
        ] {
            for (packet_type, is_ours) in [(0, true), (1, true), (3, false), (4, false)] {
                assert_eq!(takes(&program, packet_type, &frame), heard && is_ours, "{frame:x?}");
            }
        }
        assert!(!takes(&program, 0, &frame(0x0800, 17, 5, 68)[..36]));
    }
}

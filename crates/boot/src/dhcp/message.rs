//! DHCP messages (RFC 2131, 2132): what of a request counts here, and how a reply is put together. The codec is smoltcp's.

use std::net::Ipv4Addr;

use aoe_wire::MacAddr;
use smoltcp::wire::{
    ArpHardware, DhcpFlags, DhcpMessageType, DhcpOpCode, DhcpOption, DhcpPacket, EthernetAddress,
};
use uuid::Uuid;

use super::client::{Architecture, Client, Program};

/// Longest message that anybody has to take (RFC 2131, 2): 576 bytes with the headers of IP and UDP.
const MESSAGE_BYTES_LEAST: usize = 548;
/// Longest that is made: what an Ethernet frame carries behind the same headers.
const MESSAGE_BYTES_MAX: usize = 1472;
/// The fields before the options, the magic number included.
const FIXED_BYTES: usize = 240;
/// Where the name of a boot file lies (RFC 2131, figure 1), and how long it may be, its end included.
const FILE: std::ops::Range<usize> = 108..236;
/// Old relays and clients drop what is shorter (RFC 1542, 2.1).
const REPLY_BYTES_LEAST: usize = 300;
const MAGIC_NUMBER: u32 = 0x6382_5363;

/// Options by their numbers (RFC 2132, 4578 and 3004).
pub(super) mod option {
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const NAME_SERVER: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const VENDOR_SPECIFIC: u8 = 43;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const MESSAGE_BYTES: u8 = 57;
    pub const RENEWAL_TIME: u8 = 58;
    pub const REBINDING_TIME: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const TFTP_SERVER: u8 = 66;
    pub const BOOT_FILE: u8 = 67;
    pub const USER_CLASS: u8 = 77;
    pub const ARCHITECTURE: u8 = 93;
    pub const CLIENT_UUID: u8 = 97;
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Is anybody there?
    Discover,
    /// That address, of that server.
    Request,
    /// The address is somebody else's.
    Decline,
    /// The address isn't needed any more.
    Release,
    /// It has an address, and wants to know the rest.
    Inform,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is wanted.
    pub kind: RequestKind,
    /// By which the client knows the answer.
    pub transaction: u32,
    /// Whether it can't hear what is sent to its address yet.
    pub broadcast: bool,
    /// The address that it uses; none of who looks for one (RFC 2131, table 5).
    pub uses: Option<Ipv4Addr>,
    /// Whether a relay has passed it on.
    pub is_relayed: bool,
    /// The address that it would like.
    pub wants: Option<Ipv4Addr>,
    /// The server that this is for.
    pub server: Option<Ipv4Addr>,
    /// Who it is.
    pub client: Client,
    /// Options 61 and 97 as they came: they go back as they are.
    echoed: Vec<(u8, Vec<u8>)>,
    /// Longest reply that it takes, in bytes.
    bytes_max: usize,
}

impl Request {
    /// Reads a request. What is none, or of a network that isn't Ethernet, is nothing.
    pub fn parse(bytes: &[u8]) -> Option<Request> {
        // The fields are read where they are: the codec panics at anything shorter.
        if bytes.len() < FIXED_BYTES {
            return None;
        }
        let packet = DhcpPacket::new_checked(bytes).ok()?;
        let is_request = packet.opcode() == DhcpOpCode::Request
            && packet.hardware_type() == ArpHardware::Ethernet
            && packet.hardware_len() == 6
            && packet.magic_number() == MAGIC_NUMBER;
        let mac = packet.client_hardware_address();
        if !is_request || !mac.is_unicast() {
            return None;
        }
        let found = |kind: u8| packet.options().find(|found| found.kind == kind);
        let text = |kind| found(kind).map_or(&[][..], |found| found.data);
        let address = |kind| found(kind).and_then(|found| address_of(found.data));
        let number = |kind| found(kind).and_then(|found| number_of(found.data));
        let kind = match found(option::MESSAGE_TYPE)?.data {
            [1] => RequestKind::Discover,
            [3] => RequestKind::Request,
            [4] => RequestKind::Decline,
            [7] => RequestKind::Release,
            [8] => RequestKind::Inform,
            _ => return None,
        };
        let some = |address: Ipv4Addr| (!address.is_unspecified()).then_some(address);
        let echoed = [option::CLIENT_ID, option::CLIENT_UUID];
        let echoed = echoed.into_iter().filter_map(found);
        let bytes_max = number(option::MESSAGE_BYTES).map_or(0, usize::from).saturating_sub(28);
        Some(Request {
            kind,
            transaction: packet.transaction_id(),
            broadcast: packet.flags().contains(DhcpFlags::BROADCAST),
            uses: some(packet.client_ip()).filter(|_| kind != RequestKind::Discover),
            is_relayed: !packet.relay_agent_ip().is_unspecified(),
            wants: address(option::REQUESTED_ADDRESS),
            server: address(option::SERVER),
            client: Client {
                mac: MacAddr(mac.0),
                uuid: uuid_of(text(option::CLIENT_UUID)),
                program: program_of(text(option::VENDOR_CLASS), text(option::USER_CLASS)),
                architecture: Architecture::of(number(option::ARCHITECTURE)),
                hostname: hostname_of(text(option::HOST_NAME)),
            },
            echoed: echoed.map(|found| (found.kind, found.data.to_vec())).collect(),
            bytes_max: bytes_max.clamp(MESSAGE_BYTES_LEAST, MESSAGE_BYTES_MAX),
        })
    }
}

fn address_of(data: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from)
}

/// Option 93 may be a list: what comes first is what runs.
fn number_of(data: &[u8]) -> Option<u16> {
    data.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}

/// Type 0, and the UUID with its first three fields as SMBIOS has them (RFC 4578, 2.3). Boards whose maker set nothing say
/// all zeros or all ones.
fn uuid_of(data: &[u8]) -> Option<Uuid> {
    let (0, bytes) = data.split_first()? else { return None };
    let uuid = Uuid::from_bytes_le(<[u8; 16]>::try_from(bytes).ok()?);
    (!uuid.is_nil() && !uuid.is_max()).then_some(uuid)
}

/// iPXE says `iPXE` as it is; RFC 3004 wants a length before each class.
fn program_of(vendor: &[u8], user: &[u8]) -> Program {
    const IPXE: &[u8] = b"iPXE";
    if user == IPXE || user.split_first().is_some_and(|(len, class)| *len == 4 && class == IPXE) {
        Program::Ipxe
    } else if vendor.starts_with(b"PXEClient") {
        Program::Pxe
    } else if vendor.starts_with(b"HTTPClient") {
        Program::Http
    } else {
        Program::Other
    }
}

/// It goes to logs and tables, and perhaps to who names machines: letters, digits, hyphens and dots (RFC 1123, 2.1).
fn hostname_of(data: &[u8]) -> Option<String> {
    const BYTES_MAX: usize = 63;
    let name = std::str::from_utf8(data).ok()?.trim_end_matches('\0');
    let is_sound = |letter: char| letter.is_ascii_alphanumeric() || "-.".contains(letter);
    let is_name = !name.is_empty() && name.len() <= BYTES_MAX && name.chars().all(is_sound);
    is_name.then(|| name.to_owned())
}

/// A reply to a request.
pub(super) struct Reply {
    bytes: Vec<u8>,
    /// Bytes in use of these.
    len: usize,
}

impl Reply {
    /// One without an address and without a file.
    pub fn new(request: &Request, kind: DhcpMessageType, server: Ipv4Addr) -> Reply {
        let mut bytes = vec![0; request.bytes_max];
        let mut packet = DhcpPacket::new_unchecked(&mut bytes[..]);
        packet.set_opcode(DhcpOpCode::Reply);
        packet.set_hardware_type(ArpHardware::Ethernet);
        packet.set_hardware_len(6);
        packet.set_transaction_id(request.transaction);
        packet.set_magic_number(MAGIC_NUMBER);
        packet.set_client_hardware_address(EthernetAddress(request.client.mac.0));
        if request.broadcast {
            packet.set_flags(DhcpFlags::BROADCAST);
        }
        let mut reply = Reply { bytes, len: FIXED_BYTES };
        reply.put(option::MESSAGE_TYPE, &[kind.into()]);
        reply.put_address(option::SERVER, server);
        for (kind, data) in &request.echoed {
            reply.put(*kind, data);
        }
        reply
    }

    fn packet(&mut self) -> DhcpPacket<&mut [u8]> {
        DhcpPacket::new_unchecked(&mut self.bytes[..])
    }

    /// The address that the client has from now on, and the one that it says that it has.
    pub fn set_addresses(&mut self, given: Option<Ipv4Addr>, used: Option<Ipv4Addr>) {
        self.packet().set_your_ip(given.unwrap_or(Ipv4Addr::UNSPECIFIED));
        self.packet().set_client_ip(used.unwrap_or(Ipv4Addr::UNSPECIFIED));
    }

    /// The file to begin with, and who has it. Firmware of the time of BIOS looks for both in the fixed fields, other only
    /// among the options.
    pub fn set_file(&mut self, server: Ipv4Addr, file: &str) {
        self.packet().set_server_ip(server);
        let place = &mut self.bytes[FILE];
        // With the zero behind it.
        if let Some(place) = place.get_mut(..file.len()).filter(|_| file.len() < FILE.len()) {
            place.copy_from_slice(file.as_bytes());
        }
        self.put(option::TFTP_SERVER, server.to_string().as_bytes());
        self.put(option::BOOT_FILE, file.as_bytes());
    }

    pub fn put_address(&mut self, kind: u8, address: Ipv4Addr) {
        self.put(kind, &address.octets());
    }

    pub fn put_seconds(&mut self, kind: u8, seconds: u32) {
        self.put(kind, &seconds.to_be_bytes());
    }

    /// An option; nothing where it doesn't fit, with its end. What a client can't do without comes first.
    pub fn put(&mut self, kind: u8, data: &[u8]) {
        let room = self.bytes.len().saturating_sub(self.len + 1);
        let is_long = data.len() > usize::from(u8::MAX) || data.len() + 2 > room;
        if is_long || data.is_empty() {
            return;
        }
        let mut writer = smoltcp::wire::DhcpOptionWriter::new(&mut self.bytes[self.len..]);
        if writer.emit(DhcpOption { kind, data }).is_ok() {
            self.len += data.len() + 2;
        }
    }

    /// Its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        const END: u8 = 255;
        if let Some(end) = self.bytes.get_mut(self.len) {
            *end = END;
        }
        self.bytes.truncate((self.len + 1).max(REPLY_BYTES_LEAST));
        self.bytes
    }
}

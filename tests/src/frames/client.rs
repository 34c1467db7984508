//! One question, one answer.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use aoe_wire::{MacAddr, ShelfSlot};
use os::net::{FrameSocket, InterfaceSpec, Role};

use super::bytes::{
    self, BROADCAST, IDENTIFY, READ_EXT, RESPONSE_FLAG, WRITE_EXT, ata_request, config_request,
    header,
};

const RETRY: Duration = Duration::from_millis(100);
const TRIES: u32 = 50;
static NEXT_TAG: AtomicU32 = AtomicU32::new(1);

/// A client of one export.
pub struct Client {
    socket: FrameSocket,
    mac: MacAddr,
    address: ShelfSlot,
    target: MacAddr,
}

/// What a target said of itself.
#[derive(Clone, Debug)]
pub struct Discovered {
    /// The target's address.
    pub mac: MacAddr,
    /// Requests that it queues.
    pub buffers: u16,
    /// Sectors per request.
    pub sectors: u8,
    /// The configuration string.
    pub config: Vec<u8>,
}

impl Client {
    /// Finds the export at `address` by a broadcast config query.
    pub fn connect(interface: &InterfaceSpec, address: ShelfSlot) -> anyhow::Result<Client> {
        let socket = FrameSocket::open(interface, Some(Role::Replies))?;
        let mac = socket.mac();
        let mut client = Client { socket, mac, address, target: BROADCAST };
        client.target = client.discover()?.mac;
        Ok(client)
    }

    /// The same from another address than the interface's, and not as patiently.
    pub fn connect_as(
        interface: &InterfaceSpec,
        mac: MacAddr,
        address: ShelfSlot,
    ) -> anyhow::Result<Client> {
        let socket = FrameSocket::open(interface, None)?;
        let mut client = Client { socket, mac, address, target: BROADCAST };
        let request = config_request(header(BROADCAST, mac, address, 1, client.tag()));
        let answer = client.ask(&request, 3)?.with_context(|| format!("no {address}"))?;
        client.target = MacAddr(*answer[6..].first_chunk().context("a short answer")?);
        Ok(client)
    }

    /// Whether the export at `address` answers a broadcast query at once.
    pub fn probe(interface: &InterfaceSpec, address: ShelfSlot) -> bool {
        let Ok(socket) = FrameSocket::open(interface, Some(Role::Replies)) else { return false };
        let mac = socket.mac();
        let mut client = Client { socket, mac, address, target: BROADCAST };
        let tag = client.tag();
        let request = config_request(header(BROADCAST, mac, address, 1, tag));
        client.ask(&request, 3).is_ok_and(|answer| answer.is_some())
    }

    /// The client's own address.
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Acts under another address: everything on the cable is heard.
    pub fn set_mac(&mut self, interface: &InterfaceSpec, mac: MacAddr) -> anyhow::Result<()> {
        self.socket = FrameSocket::open(interface, None)?;
        self.mac = mac;
        Ok(())
    }

    /// The export's address.
    pub fn address(&self) -> ShelfSlot {
        self.address
    }

    /// The target's address.
    pub fn target(&self) -> MacAddr {
        self.target
    }

    /// Asks everybody for the export.
    pub fn discover(&mut self) -> anyhow::Result<Discovered> {
        let tag = self.tag();
        let request = config_request(header(BROADCAST, self.mac, self.address, 1, tag));
        let reply = self.ask(&request, TRIES)?.with_context(|| format!("no {}", self.address))?;
        if reply.len() < 32 {
            bail!("a config reply of {} bytes", reply.len());
        }
        let mut mac = [0; 6];
        mac.copy_from_slice(&reply[6..12]);
        let len = usize::from(u16::from_be_bytes([reply[30], reply[31]]));
        Ok(Discovered {
            mac: MacAddr(mac),
            buffers: u16::from_be_bytes([reply[24], reply[25]]),
            sectors: reply[28],
            config: reply.get(32..32 + len).context("a lying length")?.to_vec(),
        })
    }

    /// The export's size, from IDENTIFY.
    pub fn sectors(&mut self) -> anyhow::Result<u64> {
        let reply = self.ata(IDENTIFY, 1, 0, &[], 512)?;
        let words = &reply[36 + 200..36 + 208];
        Ok(words.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    /// Reads sectors.
    pub fn read(&mut self, lba: u64, sectors: u8) -> anyhow::Result<Vec<u8>> {
        let bytes = usize::from(sectors) * 512;
        let reply = self.ata(READ_EXT, sectors, lba, &[], bytes)?;
        Ok(reply[36..36 + bytes].to_vec())
    }

    /// Writes sectors.
    pub fn write(&mut self, lba: u64, data: &[u8]) -> anyhow::Result<()> {
        let sectors = u8::try_from(data.len() / 512)?;
        self.ata(WRITE_EXT, sectors, lba, data, 0).map(drop)
    }

    /// Makes all that was acknowledged durable.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        self.ata(0xea, 0, 0, &[], 0).map(drop)
    }

    /// An ATA command that must succeed; its reply.
    fn ata(
        &mut self,
        ata: u8,
        sectors: u8,
        lba: u64,
        data: &[u8],
        want: usize,
    ) -> anyhow::Result<Vec<u8>> {
        let reply = self.ata_reply(ata, sectors, lba, data)?;
        match bytes::failure_of(&reply, want) {
            Some(failure) => bail!("{} command {ata:#04x} at {lba}: {failure}", self.address),
            None => Ok(reply),
        }
    }

    /// An ATA command; its reply, whatever it says.
    pub fn ata_reply(
        &mut self,
        ata: u8,
        sectors: u8,
        lba: u64,
        data: &[u8],
    ) -> anyhow::Result<Vec<u8>> {
        let tag = self.tag();
        let head = header(self.target, self.mac, self.address, 0, tag);
        let mut request = ata_request(head, ata, sectors, lba);
        request.extend(data);
        self.ask(&request, TRIES)?.with_context(|| format!("{} is silent", self.address))
    }

    /// Sends a request of the caller's own (its source is replaced by ours) and waits for an answer
    /// with its tag; `None` for silence. It is sent again meanwhile.
    pub fn ask(&mut self, request: &[u8], tries: u32) -> anyhow::Result<Option<Vec<u8>>> {
        let mut request = request.to_vec();
        if let Some(source) = request.get_mut(6..12) {
            source.copy_from_slice(&self.mac.0);
        }
        let tag = bytes::tag_of(&request).context("a request without a tag")?;
        for _ in 0..tries {
            self.socket.send(&[&request])?;
            let sent = Instant::now();
            while sent.elapsed() < RETRY {
                self.socket.wait(RETRY.saturating_sub(sent.elapsed()))?;
                let mut answer = None;
                self.socket.receive(&mut |frame| {
                    let ours = bytes::tag_of(frame) == Some(tag)
                        && frame[12..14] == [0x88, 0xa2]
                        && frame[14] & RESPONSE_FLAG != 0
                        && frame[..6] == self.mac.0;
                    if ours && answer.is_none() {
                        answer = Some(frame.to_vec());
                    }
                })?;
                if answer.is_some() {
                    return Ok(answer);
                }
            }
        }
        Ok(None)
    }

    /// A number that no request of this process had: all its clients share an address.
    pub fn tag(&self) -> u32 {
        // Far from the tags of loads from the same address, and bit 31 clear as of the kernel's.
        0x4000_0000 | NEXT_TAG.fetch_add(1, Ordering::Relaxed) & 0x3fff_ffff
    }
}

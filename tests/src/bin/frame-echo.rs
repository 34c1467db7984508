//! The least that an AoE target can do: takes each frame through the same port as the target, and
//! sends one of the right size back. What the target's processor time is above this one's is the
//! price of being a target. With a file, each request is one call to read or write it: what is above
//! that is the price of doing it with any care.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use aoe_wire::Port;
use aoe_wire::{Frame, ShelfSlot};
use arrayvec::ArrayVec;
use block::{Buffer, BufferMut};
use clap::Parser;
use os::Reactor;
use os::net::{InterfaceSpec, PacketPort, Role};

/// Answers each AoE request with as many bytes as a target would, of constant data.
#[derive(Parser)]
struct Args {
    /// Network namespace of the interface.
    #[arg(long)]
    netns: Option<String>,
    /// Interface to answer on.
    #[arg(short, long)]
    interface: String,
    /// The address to answer for, for example e1.1.
    #[arg(long)]
    address: ShelfSlot,
    /// Size of the disk that isn't there, in bytes.
    #[arg(long, default_value_t = 1 << 30)]
    size: u64,
    /// Read and write this file, of that size.
    #[arg(long)]
    file: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (mut reactor, handle) = Reactor::new()?;
    let interface = InterfaceSpec { name: args.interface, netns: args.netns };
    let port = PacketPort::open(&handle, interface, Role::Requests)?;
    let open = |path| File::options().read(true).write(true).open(path);
    let file = args.file.map(open).transpose()?;
    let echo = Echo::new(args.address, args.size, file, &port);
    let runtime = handle.runtime().clone();
    reactor.run_until(async move {
        let mut replies = Vec::new();
        loop {
            let received = port.receive(&mut |frame| replies.extend(echo.answer(frame)));
            if !replies.is_empty() {
                port.transmit(&mut replies);
            }
            if received == 0 {
                port.readable().await;
            }
            runtime.yield_now().await;
        }
    })?
}

struct Echo {
    address: ShelfSlot,
    mac: [u8; 6],
    sectors_max: u8,
    file: Option<File>,
    /// What every read gets without a file.
    data: Buffer,
    identify: Buffer,
    nothing: Buffer,
}

impl Echo {
    fn new(address: ShelfSlot, size: u64, file: Option<File>, port: &PacketPort) -> Echo {
        let mut identify = BufferMut::zeroed(512);
        identify[200..208].copy_from_slice(&(size / 512).to_le_bytes());
        let sectors_max = (port.mtu_bytes().saturating_sub(36) / 512).min(255) as u8;
        Echo {
            address,
            mac: port.mac().0,
            sectors_max,
            file,
            data: Buffer::copy_of(&vec![0x5a; usize::from(sectors_max) * 512]),
            identify: identify.freeze(),
            nothing: Buffer::empty(),
        }
    }

    fn answer(&self, request: &[u8]) -> Option<Frame> {
        let own = (self.address.shelf.to_be_bytes(), self.address.slot);
        if request.len() < 32 || request[14] & 0x08 != 0 {
            return None;
        }
        let asked = ([request[16], request[17]], request[18]);
        if asked != own {
            return None;
        }
        let mut head = ArrayVec::new();
        let mut put = |bytes: &[u8]| head.try_extend_from_slice(bytes).ok();
        put(&request[6..12])?;
        put(&self.mac)?;
        put(&[0x88, 0xa2, 0x18, 0])?;
        put(&request[16..24])?;
        let payload = match request[19] {
            // Buffers, version, sectors, version 1 with an empty string.
            1 => {
                put(&[0, 64, 0, 1, self.sectors_max, 0x10, 0, 0])?;
                self.nothing.clone()
            }
            0 if request.len() >= 36 => {
                put(&[request[24], 0, 0, 0x40])?;
                put(&request[28..36])?;
                let mut lba = [0; 8];
                lba[..6].copy_from_slice(&request[28..34]);
                let offset = u64::from_le_bytes(lba) * 512;
                let len = usize::from(request[26].min(self.sectors_max)) * 512;
                match (request[27], &self.file) {
                    (0x24, None) => self.data.slice(0, len),
                    (0x24, Some(file)) => {
                        let mut data = BufferMut::for_overwriting(len);
                        file.read_exact_at(&mut data, offset).ok()?;
                        data.freeze()
                    }
                    (0x34, Some(file)) => {
                        file.write_all_at(request.get(36..36 + len)?, offset).ok()?;
                        self.nothing.clone()
                    }
                    (0xec, _) => self.identify.clone(),
                    _ => self.nothing.clone(),
                }
            }
            _ => return None,
        };
        Some(Frame::alone(head, payload))
    }
}

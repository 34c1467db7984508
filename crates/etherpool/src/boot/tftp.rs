//! The sockets of TFTP: one for requests, and one for each transfer, around the state machine. They have a thread of their
//! own, which reads the files: one that hangs holds up TFTP, and nothing else.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use boot::tftp::packet::{DATA_HEADER_BYTES, data_header};
use boot::tftp::{Effect, End, Limits, Opening, Outgoing, Refused, Server, TransferId};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::files::Served;
use super::serve::Shared;

/// Longer than a request of a client is; what is longer is cut off, and then no request.
const REQUEST_BYTES_MAX: usize = 1500;
/// What has arrived at transfers and waits for its turn.
const HEARD_MAX: usize = 256;
/// After a failure that may last.
const PAUSE: Duration = Duration::from_millis(20);
/// With a socket and a file each they have to be fewer than a process may have descriptors.
const LIMITS: Limits =
    Limits { transfers: 384, per_address: 8, unanswered: 128, blksize: 1468, windowsize: 64 };

/// A transfer that runs.
struct Running {
    socket: Arc<UdpSocket>,
    served: Served,
    reader: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

type Heard = (TransferId, SocketAddrV4, Vec<u8>);

struct Tftp {
    address: Ipv4Addr,
    shared: Arc<Shared>,
    server: Server,
    running: BTreeMap<TransferId, Running>,
    heard: mpsc::Sender<Heard>,
    begun: Instant,
    requests: UdpSocket,
    buffer: Vec<u8>,
}

/// Serves for ever, on this thread.
pub fn serve(
    requests: std::net::UdpSocket,
    address: Ipv4Addr,
    shared: Arc<Shared>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let requests = UdpSocket::from_std(requests)?;
        let (heard, mut hears) = mpsc::channel(HEARD_MAX);
        let mut tftp = Tftp {
            address,
            shared,
            server: Server::new(LIMITS),
            running: BTreeMap::new(),
            heard,
            begun: Instant::now(),
            requests,
            buffer: vec![0; DATA_HEADER_BYTES + usize::from(u16::MAX)],
        };
        let mut packet = [0; REQUEST_BYTES_MAX];
        loop {
            let due = tftp.server.deadline();
            let due = due.map(|due| Duration::from_nanos(due.as_nanos()));
            let due = due
                .map_or_else(|| Instant::now() + Duration::from_secs(3600), |due| tftp.begun + due);
            let mut effects = Vec::new();
            tokio::select! {
                received = tftp.requests.recv_from(&mut packet) => match received {
                    Ok((len, SocketAddr::V4(from))) => {
                        tftp.request(from, packet.get(..len).unwrap_or_default(), &mut effects);
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(PAUSE).await,
                },
                Some((id, from, bytes)) = hears.recv() => {
                    let now = tftp.now();
                    tftp.server.receive(now, id, from, &bytes, &mut effects);
                }
                () = tokio::time::sleep_until(due.into()) => {
                    let now = tftp.now();
                    tftp.server.poll(now, &mut effects);
                }
            }
            tftp.perform(effects);
        }
    })
}

impl Tftp {
    fn now(&self) -> block::Instant {
        let nanos = u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        block::Instant::from_nanos(nanos)
    }

    fn request(&mut self, from: SocketAddrV4, packet: &[u8], effects: &mut Vec<Effect>) {
        let now = self.now();
        let begun = match self.server.request(now, from, packet, effects) {
            Ok(None) => return,
            Ok(Some(opening)) => self.begin(opening, effects),
            Err(refused) => Err(refused),
        };
        if let Err(refused) = begun {
            self.shared.troubles.tell(|untold| {
                tracing::info!(%from, why = %refused, untold, "refused: a request by TFTP");
            });
            // Nobody waits for it: who doesn't hear it asks again.
            put(&self.requests, &refused.packet(), from);
        }
    }

    fn begin(&mut self, opening: Opening, effects: &mut Vec<Effect>) -> Result<(), Refused> {
        let served = match self.shared.files.open(opening.name()) {
            Ok(served) => served,
            Err(error) => {
                return Err(match error.kind() {
                    io::ErrorKind::NotFound => Refused::NotFound,
                    _ => Refused::Unreadable,
                });
            }
        };
        let socket = self.socket().map_err(|error| {
            self.shared.troubles.tell(|untold| {
                tracing::warn!(%error, untold, "TFTP can't begin a transfer");
            });
            Refused::Busy
        })?;
        let (from, name) = (opening.client(), opening.name().clone());
        let now = self.now();
        let Some(id) = self.server.begin(now, opening, served.len, effects)? else {
            return Ok(());
        };
        let socket = Arc::new(socket);
        let reader = tokio::spawn(read(id, Arc::clone(&socket), self.heard.clone()));
        self.running.insert(id, Running { socket, served, reader });
        self.shared.news.tell(|untold| {
            tracing::info!(client = %from, file = %name, untold, "a file is fetched by TFTP");
        });
        Ok(())
    }

    /// At a port of its own, of the address that was asked.
    fn socket(&self) -> io::Result<UdpSocket> {
        let socket = std::net::UdpSocket::bind((self.address, 0))?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        let mut queue = effects;
        while !queue.is_empty() {
            let mut further = Vec::new();
            for effect in queue {
                match effect {
                    Effect::Send { id, to, what } => {
                        if !self.send(id, to, &what) {
                            self.server.fail(id, &mut further);
                        }
                    }
                    Effect::Over { id, end } => self.end(id, &end),
                }
            }
            queue = further;
        }
    }

    /// Whether the file could be read.
    fn send(&mut self, id: TransferId, to: SocketAddrV4, what: &Outgoing) -> bool {
        let Some(running) = self.running.get(&id) else { return true };
        match what {
            Outgoing::Packet(packet) => {
                put(&running.socket, packet, to);
            }
            Outgoing::Data { block, offset, len } => {
                let Some(packet) = self.buffer.get_mut(..DATA_HEADER_BYTES + len) else {
                    return false;
                };
                let (head, data) = packet.split_at_mut(DATA_HEADER_BYTES);
                head.copy_from_slice(&data_header(*block));
                if let Err(error) = running.served.file.read_exact_at(data, *offset) {
                    tracing::warn!(%error, "a file that is fetched by TFTP can't be read");
                    return false;
                }
                put(&running.socket, packet, to);
            }
        }
        true
    }

    fn end(&mut self, id: TransferId, end: &End) {
        if self.running.remove(&id).is_some() && *end != End::Complete {
            self.shared.troubles.tell(|untold| {
                tracing::info!(?end, untold, "a file wasn't fetched by TFTP");
            });
        }
    }
}

/// At once or never: what there is no room for is lost, as it might be later. Not by way of tokio, which believes of a socket
/// that it has just met that there is none.
fn put(socket: &UdpSocket, packet: &[u8], to: SocketAddrV4) {
    let _ = rustix::net::sendto(socket, packet, rustix::net::SendFlags::DONTWAIT, &to);
}

/// Hands on what arrives at a transfer's port.
async fn read(id: TransferId, socket: Arc<UdpSocket>, heard: mpsc::Sender<Heard>) {
    let mut packet = [0; REQUEST_BYTES_MAX];
    loop {
        match socket.recv_from(&mut packet).await {
            Ok((len, SocketAddr::V4(from))) => {
                let bytes = packet.get(..len).unwrap_or_default().to_vec();
                if heard.send((id, from, bytes)).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            // The client's port is closed; the clock says when it is given up.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

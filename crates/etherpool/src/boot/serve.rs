//! `etherpool boot serve`: the process. It opens its ports and directories, gives up all rights, and only then hears
//! anybody.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use boot::dhcp::{Addresses, Leases, Network, PROXY_PORT, Range, SERVER_PORT, Server};
use boot::tftp::packet::PORT as TFTP_PORT;
use clap::Args;
use control::api::{ApiError, ErrorCode};
use control::boot::{BootConfig, DhcpConfig};
use os::dir::{Access, Directory};
use os::net::bind_to_device;
use os::net::netlink::links;
use os::process::ProcessLock;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt as rx,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::dhcp::{Clock, Dhcp, KeptLeases, LEASES_FILE};
use super::files::Files;
use super::hellos::{self, Hellos};
use super::kept::{Kept, now_seconds, read_needed};
use super::known::Known;
use super::sightings::{self, Sightings};
use super::slots::{self, AllSlots};
use super::state::State;
use super::told::Place;
use super::{http, tftp};
use crate::confinement::Process;
use crate::services::refusals::Refusals;
use crate::supervisor::{die_with_parent, is_child};

/// How often what has changed is written.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether the interface still has our address.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Threads for HTTP; files are read on others.
const WORKERS: usize = 2;
/// Those.
const READERS_MAX: usize = 16;
/// For each transfer and connection a socket and a file.
const DESCRIPTORS: u64 = 4096;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Answer machines that boot from the network: DHCP, TFTP, HTTP
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// The interface to answer on; needed unless the configuration names it
    #[arg(short = 'i', long = "interface", value_name = "IF")]
    interface: Option<String>,
    /// The configuration; without one it is a proxy beside the DHCP server that there is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is known of machines, and images; /var/lib/etherpool/boot by default
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Check the configuration and say what would be served, without serving
    #[arg(long)]
    check: bool,
}

/// What the parts of the server have in common.
pub struct Shared {
    pub state: State,
    pub known: Known,
    pub place: Place,
    pub files: Files,
    pub sightings: Kept<Sightings>,
    pub hellos: Kept<Hellos>,
    pub slots: Kept<AllSlots>,
    /// What goes wrong, a few lines a minute of it.
    pub troubles: Refusals,
    /// What happens, likewise.
    pub news: Refusals,
}

/// Runs until it is told to stop.
pub fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    // A supervisor's child ends with it.
    if is_child() {
        die_with_parent()?;
    }
    let config = load(&args)?;
    let interface = args.interface.as_ref().or(config.interface.as_ref());
    let interface = interface.ok_or_else(|| {
        ApiError::new(ErrorCode::Invalid, "no interface is named")
            .remedy("name the one to answer on: -i IF, or `interface` in the configuration")
    })?;
    let at = place_of(interface)?;
    let address = at.address;
    let server = dhcp_server(&config, (address, at.prefix))?;
    let state_dir = args.state_dir.clone().unwrap_or_else(|| config.state_dir.clone());
    if args.check {
        return check(&config, interface, address, &state_dir);
    }
    let state = State::open(&state_dir)?;
    let _lock = ProcessLock::acquire(&state_dir, "serve")
        .context("another boot server has this state directory")?;
    let ports = Ports::open(interface, address, config.http_port)?;
    let (ipxe, mut missing) = open_ipxe(&config);
    let (state, ipxe) = alone(state, ipxe, &mut missing);
    let _running = crate::running::register("boot server", vec![state_dir.clone()]);
    // A limit that can't be raised bounds what is served at a time.
    let _ = raise_descriptors();
    let warnings = crate::confinement::confine(Process::Boot(&state_dir));
    crate::logging::start(&config.log.level);
    warnings.iter().chain(&missing).for_each(|warning| tracing::warn!("{warning}"));
    let shared = Arc::new(Shared {
        known: Known::new(state.clone()),
        place: Place {
            http: SocketAddrV4::new(address, config.http_port),
            ipxe: config.ipxe.clone(),
        },
        files: Files { ipxe, images: state.images.clone() },
        sightings: Kept::load_seen(&state.root, sightings::FILE)?,
        hellos: Kept::load_seen(&state.root, hellos::FILE)?,
        slots: Kept::load(&state.root, slots::FILE)?,
        troubles: Refusals::default(),
        news: Refusals::default(),
        state,
    });
    let leases: Kept<KeptLeases> = Kept::load_seen(&shared.state.root, LEASES_FILE)?;
    let clock = Clock::begin(now_seconds());
    let server = server.with_leases(&leases.look(), &clock);
    let dhcp = Arc::new(Dhcp::new(server, clock, leases, Arc::clone(&shared)));
    let writer = Arc::new(Writer { shared, dhcp, turn: Mutex::default() });
    let served = serve(&writer, ports, interface, at);
    writer.write();
    writer.dhcp.write_last();
    served?;
    Ok(ExitCode::SUCCESS)
}

/// The directories without what is above them: also who runs code in this process finds no other by their descriptors.
fn alone(
    state: State,
    ipxe: Option<Directory>,
    warnings: &mut Vec<String>,
) -> (State, Option<Directory>) {
    let mut alone = |directory: Directory, access| match directory.alone(access) {
        Ok(alone) => alone,
        Err(error) => {
            let path = directory.path().display();
            warnings.push(format!(
                "not confined: {path} can't be held without what is above it: {error}"
            ));
            directory
        }
    };
    let ipxe = ipxe.map(|ipxe| alone(ipxe, Access::Read));
    let state = State {
        root: alone(state.root, Access::Write),
        machines: alone(state.machines, Access::Read),
        images: alone(state.images, Access::Read),
    };
    (state, ipxe)
}

fn load(args: &ServeArgs) -> anyhow::Result<BootConfig> {
    args.config.as_deref().map_or_else(|| Ok(BootConfig::default()), read_config)
}

/// A boot server's configuration.
pub fn read_config(path: &Path) -> anyhow::Result<BootConfig> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        ApiError::new(ErrorCode::Invalid, format!("{}: {error}", path.display()))
            .remedy("name a readable file with --config")
    })?;
    let config = BootConfig::parse(&text).map_err(|error| {
        ApiError::new(ErrorCode::Invalid, format!("{}: {error}", path.display()))
            .remedy("correct the file; nothing was started")
    })?;
    Ok(config)
}

/// Where an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InterfacePlace {
    /// The kernel's number of it, to which sockets are bound: one of the same name that comes later has another.
    index: u32,
    /// Its first IPv4 address, by which the kernel answers.
    address: Ipv4Addr,
    /// The bits of its network.
    prefix: u8,
}

fn place_of(interface: &str) -> anyhow::Result<InterfacePlace> {
    let links = links(None).context("cannot list this machine's interfaces")?;
    let link = links.into_iter().find(|link| link.name == interface);
    let v4 =
        link.iter().flat_map(|link| &link.addresses).find_map(|(address, prefix)| match address {
            IpAddr::V4(address) => Some((*address, *prefix)),
            IpAddr::V6(_) => None,
        });
    if let Some((link, (address, prefix))) = link.as_ref().zip(v4) {
        return Ok(InterfacePlace { index: link.index, address, prefix });
    }
    let (message, remedy) = match link.is_some() {
        true => (
            format!("{interface} has no IPv4 address"),
            format!("give it one: `ip address add ADDRESS/BITS dev {interface}`"),
        ),
        false => (
            format!("there is no interface {interface}"),
            "name another one: `ip link` lists them".to_owned(),
        ),
    };
    Err(ApiError::new(ErrorCode::Unavailable, message).remedy(remedy).into())
}

/// What the configuration makes of DHCP.
struct Configured {
    address: Ipv4Addr,
    addresses: Option<Addresses>,
}

impl Configured {
    fn with_leases(mut self, kept: &KeptLeases, clock: &Clock) -> Server {
        if let Some(addresses) = &mut self.addresses {
            let lease = addresses.network.lease;
            kept.put_into(&mut addresses.leases, lease, clock);
        }
        Server::new(self.address, self.addresses)
    }
}

fn dhcp_server(
    config: &BootConfig,
    (address, prefix): (Ipv4Addr, u8),
) -> anyhow::Result<Configured> {
    let Some(dhcp) = &config.dhcp else { return Ok(Configured { address, addresses: None }) };
    let DhcpConfig { range: [first, last], router, name_servers, domain, lease } = dhcp;
    let wrong = |why: String| {
        ApiError::new(
            ErrorCode::Invalid,
            format!("[dhcp] range = [\"{first}\", \"{last}\"]: {why}"),
        )
        .remedy(format!("choose addresses of the interface's own network, {address}/{prefix}"))
    };
    let range = Range::new(*first, *last, prefix).map_err(|error| wrong(error.to_string()))?;
    if !range.has(address) {
        return Err(wrong("the interface isn't in that network".to_owned()).into());
    }
    let outside = |one: &Ipv4Addr| !range.has(*one);
    let fixed = config.fixed.iter().map(|one| one.address);
    if let Some(stranger) = fixed.clone().chain(*router).find(outside) {
        return Err(wrong(format!("{stranger} isn't in that network")).into());
    }
    if fixed.clone().any(|fixed| fixed == address) {
        return Err(
            wrong(format!("{address} is this machine's own, and can't be [[static]]")).into()
        );
    }
    let fixed = config.fixed.iter().map(|one| (one.mac, one.address)).collect();
    let names = config.fixed.iter().filter_map(|one| Some((one.mac, one.name.clone()?))).collect();
    let kept = [Some(address), *router].into_iter().flatten().collect();
    let network = Network {
        router: *router,
        name_servers: name_servers.clone(),
        domain: domain.clone(),
        lease: lease.0,
        names,
    };
    let leases = Leases::new(range, fixed, kept);
    Ok(Configured { address, addresses: Some(Addresses { leases, network }) })
}

/// The directory of programs, and what isn't in it.
fn open_ipxe(config: &BootConfig) -> (Option<Directory>, Vec<String>) {
    let path = &config.ipxe.directory;
    let remedy = "install the package ipxe (`apt install ipxe`), or name its directory in [ipxe]";
    let directory = match Directory::open(path) {
        Ok(directory) => directory,
        Err(error) => {
            let why = "firmware that isn't iPXE can't be booted";
            return (None, vec![format!("{}: {error}: {why}; {remedy}", path.display())]);
        }
    };
    let missing = |name: &&String| directory.open_file(Path::new(name)).is_err();
    let warnings = [&config.ipxe.bios, &config.ipxe.efi_x64].into_iter().filter(missing);
    let warnings =
        warnings.map(|name| format!("there is no {}; {remedy}", path.join(name).display()));
    (Some(directory.clone()), warnings.collect())
}

fn check(
    config: &BootConfig,
    interface: &str,
    address: Ipv4Addr,
    state_dir: &Path,
) -> anyhow::Result<ExitCode> {
    println!("Interface: {interface}, {address}");
    match &config.dhcp {
        Some(DhcpConfig { range: [first, last], .. }) => println!("DHCP: {first} to {last}"),
        None => println!("DHCP: a proxy, beside the server that gives out addresses"),
    }
    println!("HTTP: port {}", config.http_port);
    println!("State: {}", state_dir.display());
    let (_, mut warnings) = open_ipxe(config);
    let mut is_wrong = false;
    if let Some(state) = State::present(state_dir)? {
        let (machines, wrong) = state.machines()?;
        println!("Machines: {}", machines.len());
        let default = state.default();
        match &default {
            Ok(Some(boot)) => println!("Default: {boot}"),
            Ok(None) => println!("Default: nothing"),
            Err(_) => {}
        }
        let wrong = wrong.into_iter().chain(default.err());
        // Without it the server doesn't start.
        let slots = read_needed::<AllSlots>(&state.root, slots::FILE).err();
        let wrong: Vec<String> = wrong
            .map(|error| format!("{error}; correct it"))
            .chain(slots.map(|error| error.to_string()))
            .collect();
        is_wrong = !wrong.is_empty();
        warnings.extend(wrong);
    }
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    let exit = if is_wrong { control::exit::Exit::Usage.code() } else { 0 };
    Ok(ExitCode::from(exit))
}

/// The sockets at which requests arrive.
struct Ports {
    dhcp: UdpSocket,
    proxy: UdpSocket,
    tftp: UdpSocket,
    http: TcpListener,
}

impl Ports {
    fn open(interface: &str, address: Ipv4Addr, http_port: u16) -> anyhow::Result<Ports> {
        let open = |kind, address: Ipv4Addr, port, remedy: &str| {
            bound(kind, interface, SocketAddrV4::new(address, port)).map_err(|error| {
                let message = format!("port {port} of {interface} can't be listened on: {error}");
                anyhow::Error::from(ApiError::new(ErrorCode::Unavailable, message).remedy(remedy))
            })
        };
        // Also what is sent to everybody arrives.
        let all = Ipv4Addr::UNSPECIFIED;
        let other = "see which program has it: `ss -lunp`; two on one machine don't go together";
        let dhcp = "a DHCP server of this machine has it: stop it and give out addresses here ([dhcp]), \
            or run it on another machine";
        let (datagrams, stream) = (SocketType::DGRAM, SocketType::STREAM);
        let http = "another program has it: choose another `http-port`, or stop that one";
        let ports = Ports {
            dhcp: UdpSocket::from(open(datagrams, all, SERVER_PORT, dhcp)?),
            proxy: UdpSocket::from(open(datagrams, all, PROXY_PORT, other)?),
            tftp: UdpSocket::from(open(datagrams, address, TFTP_PORT, other)?),
            http: TcpListener::from(open(stream, address, http_port, http)?),
        };
        ports.dhcp.set_broadcast(true)?;
        ports.proxy.set_broadcast(true)?;
        ports.tftp.set_nonblocking(true)?;
        ports.http.set_nonblocking(true)?;
        Ok(ports)
    }
}

/// A socket that hears what comes by this interface alone.
fn bound(kind: SocketType, interface: &str, address: SocketAddrV4) -> std::io::Result<OwnedFd> {
    let fd = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    bind_to_device(&fd, interface)?;
    if kind == SocketType::STREAM {
        rx::set_socket_reuseaddr(&fd, true)?;
    }
    bind(&fd, &address)?;
    if kind == SocketType::STREAM {
        listen(&fd, BACKLOG)?;
    }
    Ok(fd)
}

fn raise_descriptors() -> rustix::io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    match current {
        Some(current) if current < wanted => {
            setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
        }
        _ => Ok(()),
    }
}

/// Writes what was seen.
struct Writer {
    shared: Arc<Shared>,
    dhcp: Arc<Dhcp>,
    turn: Mutex<()>,
}

impl Writer {
    fn write(&self) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let Shared { state, sightings, hellos, slots, troubles, .. } = &*self.shared;
        let root = &state.root;
        for written in [sightings.write(root), hellos.write(root), slots.write(root)] {
            if let Err(error) = written {
                troubles.tell(|untold| {
                    tracing::error!("what was seen can't be kept: {error:#} ({untold} more)");
                });
            }
        }
    }
}

fn serve(
    writer: &Arc<Writer>,
    ports: Ports,
    interface: &str,
    at: InterfacePlace,
) -> anyhow::Result<()> {
    let address = at.address;
    let Ports { dhcp, proxy, tftp, http } = ports;
    let (ends, mut ended) = mpsc::unbounded_channel();
    let (answers, leases) = (dhcp.try_clone()?, Arc::clone(&writer.dhcp));
    thread("leases", &ends, move || leases.keep(&answers))?;
    for (socket, port) in [(dhcp, SERVER_PORT), (proxy, PROXY_PORT)] {
        let server = Arc::clone(&writer.dhcp);
        thread(&format!("dhcp-{port}"), &ends, move || server.serve(&socket, port))?;
    }
    let shared = Arc::clone(&writer.shared);
    thread("tftp", &ends, move || tftp::serve(tftp, address, shared))?;
    let writes = Arc::clone(writer);
    thread("writer", &ends, move || {
        loop {
            std::thread::sleep(WRITE_EVERY);
            writes.write();
        }
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(READERS_MAX)
        .enable_all()
        .build()
        .context("the event loop")?;
    let served = runtime.block_on(async {
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let listener = tokio::net::TcpListener::from_std(http)?;
        tracing::info!(interface, %address, http = writer.shared.place.http.port(), "serving machines that boot");
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            () = http::serve(listener, Arc::clone(&writer.shared)) => Ok(()),
            // What is left would look like a server: as a whole it is started again.
            Some(why) = ended.recv() => Err(why),
            lost = watch(interface, at) => Err(lost),
        }
    });
    // Nobody is waited for: who fetches something asks again.
    runtime.shutdown_background();
    served
}

/// A thread that isn't meant to end: when it does, also by a panic, that is told.
fn thread(
    name: &str,
    ends: &mpsc::UnboundedSender<anyhow::Error>,
    run: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    let (ends, who) = (ends.clone(), name.to_owned());
    let run = move || {
        let why = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
            Ok(Ok(())) => "there is nothing more to do for it".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it panicked".to_owned(),
        };
        // Nobody hears it where the process ends anyway.
        let _ = ends.send(anyhow::anyhow!("the thread {who} has ended: {why}"));
    };
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.with_context(|| format!("the thread {name} can't begin")).map(drop)
}

/// Ends where the interface hasn't our address any more: what we tell machines is of no use to them then. And where it is
/// another one of the same name: our sockets hear nothing of that, and to open others we have no right left.
async fn watch(interface: &str, at: InterfacePlace) -> anyhow::Error {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match place_of(interface) {
            Ok(now) if now.index != at.index => {
                return anyhow::anyhow!("{interface} was removed and made anew: start anew");
            }
            Ok(now) if now.address != at.address => {
                let now = now.address;
                return anyhow::anyhow!("{interface} has another address now, {now}: start anew");
            }
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_thread_that_ends_is_told_of_however_it_ends() {
        let (ends, mut ended) = mpsc::unbounded_channel();
        let mut heard = |run: Box<dyn FnOnce() -> std::io::Result<()> + Send>| {
            thread("tftp", &ends, run).unwrap();
            ended.blocking_recv().unwrap().to_string()
        };
        let told = heard(Box::new(|| Err(std::io::ErrorKind::NotConnected.into())));
        assert!(told.contains("tftp has ended: not connected"), "{told}");
        assert!(heard(Box::new(|| Ok(()))).contains("tftp has ended"));
        let told = heard(Box::new(|| panic!("a test's")));
        assert!(told.contains("panicked"), "{told}");
    }
}

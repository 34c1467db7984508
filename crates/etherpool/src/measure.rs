//! `etherpool measure`: a network disk, or memory, as a block device without a pool. The benchmark compares a
//! volume with them: what the way to the kernel costs alone, what sessions cost, and what the pool adds.

use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use aoe_initiator::{Initiator, InitiatorOptions};
use aoe_wire::{Incarnation, ShelfSlot};
use block::VolumeName;
use block::{BlockDevice, Claim, Epoch, IoError, MemoryDevice, OwnerId};
use clap::{Args, Subcommand};
use frontend::attach::{self, Detach, Places};
use frontend::fuse::VolumeFile;
use futures::channel::oneshot;
use futures::future::select;
use os::net::{InterfaceSpec, PacketPort, Role};
use os::process::{Signal, lock_memory, set_io_flusher, signals};
use os::reactor::{Mailbox, mailbox};
use os::{Reactor, ReactorHandle};

use crate::engine::serve_device;

/// How long a disk may take to be found: several of discovery's rounds.
const FIND_LIMIT: Duration = Duration::from_secs(15);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Aids of the benchmark.
#[derive(Debug, Subcommand)]
pub enum MeasureCommand {
    /// Make a disk that nobody owns, or memory, a block device here, until SIGTERM; its contents are lost
    Attach(AttachArgs),
}

/// Arguments of `measure attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    /// The interface, in this namespace or another: IF or IF@NETNS
    #[arg(long, short, value_name = "IF[@NETNS]", value_parser = parse_interface, requires = "disk")]
    interface: Option<InterfaceSpec>,
    /// Holds the mount point and a link to the device
    #[arg(long)]
    dir: PathBuf,
    /// Memory instead of a disk, so many MiB
    #[arg(long, value_name = "MIB", conflicts_with = "disk", required_unless_present = "disk")]
    memory: Option<u32>,
    /// The disk: eSHELF.SLOT
    #[arg(requires = "interface")]
    disk: Option<ShelfSlot>,
}

fn parse_interface(text: &str) -> Result<InterfaceSpec, String> {
    let (name, netns) = match text.split_once('@') {
        Some((name, netns)) => (name, Some(netns)),
        None => (text, None),
    };
    if name.is_empty() || netns.is_some_and(str::is_empty) {
        return Err("want IF or IF@NETNS".to_owned());
    }
    Ok(InterfaceSpec { name: name.to_owned(), netns: netns.map(str::to_owned) })
}

/// Runs it.
pub fn run(command: MeasureCommand) -> anyhow::Result<ExitCode> {
    let MeasureCommand::Attach(args) = command;
    let (mut reactor, handle) = Reactor::new().context("io_uring")?;
    let told = signals(&handle, &[Signal::Terminate, Signal::Interrupt]).context("signals")?;
    // As the engine does it, because it would cost the same there; here its failure harms nobody.
    let _ = (lock_memory(), set_io_flusher());
    crate::logging::start("warn");
    let outcome = reactor.run_until(async move {
        let served = serve(&handle, args).await?;
        println!("{}", served.block_device.display());
        let (mut ended, place) = (served.ended, served.place);
        select(pin!(told.next()), pin!(ended.receive())).await;
        clear(served.file, place).await
    });
    outcome.context("the event loop")??;
    Ok(ExitCode::SUCCESS)
}

/// Where the device is, for the kernel and for people.
type Place = (Places, VolumeName);

struct Served {
    block_device: PathBuf,
    file: VolumeFile,
    place: Place,
    ended: Mailbox<()>,
    /// Without it the disk would see no frames.
    _initiator: Option<Initiator>,
}

async fn serve(handle: &ReactorHandle, args: AttachArgs) -> anyhow::Result<Served> {
    let (device, initiator, name) = match (args.disk, args.interface) {
        (Some(address), Some(interface)) => {
            let (device, initiator) = network_disk(handle, interface, address).await?;
            (device, Some(initiator), address.to_string())
        }
        _ => {
            let sectors = u64::from(args.memory.unwrap_or_default()) << 11;
            let device: Rc<dyn BlockDevice> = Rc::new(MemoryDevice::new(sectors));
            (device, None, "memory".to_owned())
        }
    };
    let name = VolumeName::new("measure", &name)?;
    let place = (Places { run: args.dir.join("run"), links: args.dir.join("dev") }, name);
    let (places, name) = place.clone();
    let connection = blocking(move || attach::mount(&places, &name)).await??;
    let (ends, ended) = mailbox(1);
    let on_end = move || drop(ends.send(()));
    let (file, _) =
        serve_device(handle, &device, connection, on_end).context("serving the device")?;
    let (places, name) = place.clone();
    match blocking(move || attach::attach(&places, &name, false)).await? {
        Ok(block_device) => Ok(Served { block_device, file, place, ended, _initiator: initiator }),
        Err(error) => {
            clear(file, place).await?;
            Err(error.into())
        }
    }
}

/// A disk of the network, claimed, and what sees to its frames.
async fn network_disk(
    handle: &ReactorHandle,
    interface: InterfaceSpec,
    address: ShelfSlot,
) -> anyhow::Result<(Rc<dyn BlockDevice>, Initiator)> {
    let incarnation = Incarnation(os::random_bytes().context("random numbers")?);
    let initiator = Initiator::new(handle.runtime().clone(), InitiatorOptions::new(incarnation));
    let port = PacketPort::open(handle, interface, Role::Replies)?;
    initiator.add_port(Rc::new(port));
    let device = find(handle, &initiator, address).await?;
    claim(&device, address).await?;
    Ok((device, initiator))
}

async fn find(
    handle: &ReactorHandle,
    initiator: &Initiator,
    address: ShelfSlot,
) -> anyhow::Result<Rc<dyn BlockDevice>> {
    let deadline = handle.runtime().now() + FIND_LIMIT;
    while handle.runtime().now() < deadline {
        match initiator.disk(address) {
            Some(disk) if disk.has_sessions() => return Ok(disk),
            Some(_) => bail!("{address} speaks plain AoE only; want one of ours"),
            None => handle.runtime().sleep(LOOK_INTERVAL).await,
        }
    }
    bail!("no disk {address} answered within {} s", FIND_LIMIT.as_secs())
}

/// Only the owner may write, and only what is blank and nobody's gets an owner here.
async fn claim(device: &Rc<dyn BlockDevice>, address: ShelfSlot) -> anyhow::Result<()> {
    let id = os::random_bytes::<16>().context("random numbers")?;
    let owner = OwnerId(uuid::Builder::from_random_bytes(id).into_uuid());
    let claim = Claim {
        epoch: Epoch::OBSERVER.next(),
        owner,
        force: false,
        trust: block::Trust::Unchanged,
    };
    match device.claim(claim).await {
        Ok(_) => Ok(()),
        Err(IoError::Fenced { .. }) => bail!("{address} belongs to somebody"),
        Err(error) => bail!("{address} can't be claimed: {error}"),
    }
}

/// In order while the file is still served; by force when somebody holds the device.
async fn clear(file: VolumeFile, (places, name): Place) -> anyhow::Result<()> {
    let (clean_places, clean_name) = (places.clone(), name.clone());
    let clean = blocking(move || attach::detach(&clean_places, &clean_name, Detach::Clean)).await?;
    drop(file);
    if clean.is_err() {
        blocking(move || attach::detach(&places, &name, Detach::Abort)).await??;
    }
    Ok(())
}

/// Runs what waits for the kernel, which may wait for this reactor, on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name("blocking".to_owned())
        .spawn(move || drop(sender.send(work())))
        .context("a thread")?;
    receiver.await.context("a call to the system was lost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_with_and_without_a_namespace() {
        let spec = |name: &str, netns: Option<&str>| {
            Ok(InterfaceSpec { name: name.to_owned(), netns: netns.map(str::to_owned) })
        };
        assert_eq!(parse_interface("eth0"), spec("eth0", None));
        assert_eq!(parse_interface("eth0@lab-sw"), spec("eth0", Some("lab-sw")));
        for wrong in ["", "@", "eth0@", "@lab"] {
            assert!(parse_interface(wrong).is_err(), "{wrong}");
        }
    }
}

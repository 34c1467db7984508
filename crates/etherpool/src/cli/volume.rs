//! `etherpool volume`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use block::size::{Growth, Human, Reduction, VolumeSize};
use block::{FsType, VolumeName};
use clap::{Args, Subcommand};
use client::{Step, volume_path};
use control::api::{
    AcceptLoss, CreateVolume, ExtendVolume, MakeFs, MountVolume, PoolReportExt as _, Preview,
    ReduceVolume, RemoveVolume, RenameVolume, ServeFtp, UnmountVolume, VerifyVolume,
};
use control::exit::Exit;
use control::names::ExportTarget;
use control::settings::VolumeSettings;
use pool::{Layout, PoolReport, VerifyReport, VolumeForecast, VolumeReport};

use super::args::Confirmation;
use super::confirm::{confirm, confirm_plan, effects};
use super::output::{self, NamedVolume};
use super::pool::done;
use super::pool_rebalance::{self, ConvertArgs};
use super::progress::ProgressDisplay;
use super::volume_export::{self, ExportArgs};
use super::volume_stats::{self, StatsArgs};
use super::{Context, Failure};

/// Volumes.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Make a volume
    Create {
        /// Its name
        #[arg(value_name = "POOL/VOLUME")]
        volume: VolumeName,
        /// Its size: 10G, or 100%FREE for a share of the free space
        #[arg(long)]
        size: VolumeSize,
        /// Its redundancy: raid0, or mirror:N (raid1, raid10: mirror:2)
        #[arg(long)]
        layout: Layout,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Make a volume larger while it is used
    #[command(visible_alias = "resize")]
    Extend {
        /// The volume
        #[arg(value_name = "POOL/VOLUME")]
        volume: VolumeName,
        /// Its new size (20G), what to add (+1G), or the share of the free space to add (50%FREE)
        #[arg(long)]
        size: Growth,
        /// Grow its file system too
        #[arg(long)]
        resizefs: bool,

        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Make a volume smaller; never below the file system that is on it
    Reduce(ReduceArgs),
    /// List the volumes of all pools
    List(output::ListArgs),
    /// Show a volume
    Show {
        /// The volume
        #[arg(value_name = "POOL/VOLUME")]
        volume: VolumeName,
    },
    /// Show where the time of a volume's requests goes
    Stats(StatsArgs),
    /// Give a volume more copies or fewer while it is used, such as mirror:3 from mirror:2
    Convert(ConvertArgs),
    /// Give a volume another name; its data, settings and AoE exports stay
    Rename(RenameArgs),
    /// Remove a volume and its data
    #[command(visible_alias = "destroy")]
    Remove(DestroyArgs),
    /// Do without acknowledged writes that no disk has any more, so that the volume serves again
    AcceptLoss(DestroyArgs),
    /// Read every block and compare it with its checksum
    Verify {
        /// The volume
        #[arg(value_name = "POOL/VOLUME")]
        volume: VolumeName,
        /// One copy only, counted from 0
        #[arg(long, value_name = "N")]
        copy: Option<u8>,
    },
    /// Make a file system on a volume; what it holds is lost
    Mkfs(MkfsArgs),
    /// Check the file system of a volume that is not mounted; changes nothing
    Check {
        /// The volume
        #[arg(value_name = "POOL/VOLUME")]
        volume: VolumeName,
    },
    /// Give a volume a block device on this machine, also without a mount; remembered in the pool
    Attach {
        /// The volume
        #[arg(value_name = "POOL/VOLUME")]
        volume: VolumeName,
    },
    /// Take the block device of `attach` away
    Detach {
        /// The volume
        #[arg(value_name = "POOL/VOLUME")]
        volume: VolumeName,
    },
    /// Mount a volume; remembered in the pool
    Mount(MountArgs),
    /// Unmount a volume, and forget the mount
    Unmount {
        /// The volume
        #[arg(value_name = "POOL/VOLUME")]
        volume: VolumeName,

        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Serve a mounted volume by FTP; remembered in the pool
    Serve(ServeArgs),
    /// Offer a volume as an AoE disk; remembered in the pool
    Export(ExportArgs),
    /// End AoE exports of a volume
    Unexport {
        /// The volume
        #[arg(value_name = "POOL/VOLUME")]
        volume: VolumeName,
        /// This export only (aoe:eSHELF.SLOT)
        target: Option<ExportTarget>,
    },
}

/// Arguments of `volume reduce`.
#[derive(Debug, Args)]
pub struct ReduceArgs {
    /// The volume
    #[arg(value_name = "POOL/VOLUME")]
    volume: VolumeName,

    /// Its new size (20G), or what to take away (-1G)
    #[arg(long, allow_hyphen_values = true)]
    size: Reduction,

    /// Check its file system and make that smaller first
    #[arg(long)]
    resizefs: bool,

    /// Also where it isn't known how much what it carries uses
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Arguments of `volume rename`.
#[derive(Debug, Args)]
pub struct RenameArgs {
    /// The volume
    #[arg(value_name = "POOL/VOLUME")]
    volume: VolumeName,

    /// Its new name
    #[arg(value_name = "[POOL/]NAME")]
    name: String,
}

/// Arguments of commands that destroy a volume's data.
#[derive(Debug, Args)]
pub struct DestroyArgs {
    /// The volume
    #[arg(value_name = "POOL/VOLUME")]
    volume: VolumeName,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Arguments of `volume mkfs`.
#[derive(Debug, Args)]
pub struct MkfsArgs {
    #[command(flatten)]
    target: DestroyArgs,

    /// The file system: ext4, xfs or btrfs
    #[arg(long = "type", short = 't', default_value_t = FsType::Ext4, value_name = "TYPE")]
    fstype: FsType,

    /// Also over a file system that is there
    #[arg(long)]
    force: bool,
}

/// Arguments of `volume mount`.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// The volume
    #[arg(value_name = "POOL/VOLUME")]
    volume: VolumeName,

    /// Where
    path: PathBuf,

    /// The file system (default: what is found on the volume)
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    fstype: Option<FsType>,

    /// A mount option (repeat for more)
    #[arg(long = "option", short = 'o', value_delimiter = ',')]
    options: Vec<String>,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// `ftp` or a volume: both orders are understood.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ServeWord {
    Ftp,
    Volume(VolumeName),
}

impl FromStr for ServeWord {
    type Err = String;

    fn from_str(text: &str) -> Result<ServeWord, String> {
        match text {
            "ftp" => Ok(ServeWord::Ftp),
            _ if text.contains('/') => text
                .parse()
                .map(ServeWord::Volume)
                .map_err(|error: block::InvalidName| error.to_string()),
            _ => Err(format!(
                "'{text}' is neither a volume nor how to serve one: want POOL/VOLUME ftp"
            )),
        }
    }
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("'{text}' is no socket address: want ADDRESS:PORT, for example 127.0.0.1:2121")
    })
}

/// Arguments of `volume serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// The volume, and how: POOL/VOLUME ftp
    #[arg(num_args = 2, required = true, value_names = ["POOL/VOLUME", "ftp"])]
    words: Vec<ServeWord>,

    /// Address to listen on (default: the supervisor's configuration)
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "stop", value_parser = parse_listen)]
    listen: Option<SocketAddr>,

    /// Stop serving
    #[arg(long)]
    stop: bool,
}

/// Runs it.
pub async fn run(context: &Context, command: VolumeCommand) -> Result<Exit, Failure> {
    match command {
        VolumeCommand::Create { volume, size, layout, dry_run } => {
            let request = CreateVolume { name: volume.volume().to_owned(), size, layout };
            if dry_run {
                let path = format!("/v2/pools/{}/plan/volume", volume.pool());
                let forecast: VolumeForecast = context.client.post(&path, &request).await?;
                return show_forecast(context, &volume, forecast);
            }
            let path = format!("/v2/pools/{}/volumes", volume.pool());
            let report: VolumeReport = context.client.post(&path, &request).await?;
            show(context, &volume, &report)
        }
        VolumeCommand::Extend { volume, size, resizefs, confirmation } => {
            let present = match size {
                Growth::By(_) => context.client.volume(&volume).await?.size_bytes,
                Growth::To(_) => 0,
            };
            let size = size.of(present);
            let request = ExtendVolume { size, resizefs, may_unmount: false, dry_run: false };
            extend(context, &volume, request, confirmation).await
        }
        VolumeCommand::Reduce(args) => reduce(context, args).await,
        VolumeCommand::List(args) => list(context, &args).await,
        VolumeCommand::Show { volume } => {
            let report = context.client.volume(&volume).await?;
            show(context, &volume, &report)?;
            Ok(Exit::of_health(is_healthy(&report)))
        }
        VolumeCommand::Convert(args) => pool_rebalance::convert(context, args).await,
        VolumeCommand::Rename(args) => rename(context, args).await,
        VolumeCommand::Remove(args) => remove(context, args).await,
        VolumeCommand::AcceptLoss(args) => accept_loss(context, args).await,
        VolumeCommand::Verify { volume, copy } => verify(context, &volume, copy).await,
        VolumeCommand::Mkfs(args) => mkfs(context, args).await,
        VolumeCommand::Check { volume } => {
            let path = format!("{}/check", volume_path(&volume));
            let () = streamed(context, "checking the file system", &path, &()).await?;
            done(context, &format!("the file system of {volume} is in order\n"))
        }
        VolumeCommand::Attach { volume } => {
            let path = format!("{}/attach", volume_path(&volume));
            let device: PathBuf = context.client.post(&path, &()).await?;
            output::show(context.json, &serde_json::json!({ "device": device }), || {
                format!("{volume} is {}\n", device.display())
            })?;
            Ok(Exit::Ok)
        }
        VolumeCommand::Detach { volume } => {
            let () = context.client.post(&format!("{}/detach", volume_path(&volume)), &()).await?;
            done(context, &format!("{volume} is detached\n"))
        }
        VolumeCommand::Mount(args) => mount(context, args).await,
        VolumeCommand::Unmount { volume, dry_run } => unmount(context, &volume, dry_run).await,
        VolumeCommand::Serve(args) => serve(context, args).await,
        VolumeCommand::Export(args) => volume_export::export(context, args).await,
        VolumeCommand::Unexport { volume, target } => {
            volume_export::unexport(context, &volume, target).await
        }
        VolumeCommand::Stats(args) => volume_stats::run(context, args).await,
    }
}

async fn streamed<T: serde::de::DeserializeOwned>(
    context: &Context,
    title: &'static str,
    path: &str,
    request: &impl serde::Serialize,
) -> Result<T, Failure> {
    let mut display = ProgressDisplay::new(title, context.json);
    let mut work = context.client.work(path, request).await?;
    loop {
        match work.next().await? {
            Step::Going(news) => display.update(&news),
            Step::Done(value) => return Ok(value),
        }
    }
}

/// What making a volume would do.
fn show_forecast(
    context: &Context,
    volume: &VolumeName,
    forecast: VolumeForecast,
) -> Result<Exit, Failure> {
    output::show(context.json, &forecast, || {
        format!(
            "Volume {volume} would be made with {}; another one of its layout could have {} then.\n\
             Nothing was done (--dry-run).\n",
            Human(forecast.size_bytes),
            Human(forecast.left_bytes)
        )
    })?;
    Ok(Exit::Ok)
}

fn show(context: &Context, volume: &VolumeName, report: &VolumeReport) -> Result<Exit, Failure> {
    let named = NamedVolume { pool: volume.pool().to_owned(), report: report.clone() };
    output::show(context.json, &named, || output::volume(&named))?;
    Ok(Exit::Ok)
}

async fn list(context: &Context, args: &output::ListArgs) -> Result<Exit, Failure> {
    let pools = context.client.pools().await?;
    let exit = health_of_volumes(&pools);
    let volumes: Vec<NamedVolume> = pools
        .into_iter()
        .flat_map(|pool| {
            let name = pool.name;
            pool.volumes.into_iter().map(move |report| NamedVolume { pool: name.clone(), report })
        })
        .collect();
    let text = output::volumes(&volumes, args, output::terminal_width())?;
    output::show_list(context.json, &volumes, args, &text)?;
    Ok(exit)
}

/// Degraded if a volume of ours isn't well, or can't be listed because its pool isn't open.
fn health_of_volumes(pools: &[PoolReport]) -> Exit {
    let well = |pool: &PoolReport| pool.is_open() && pool.volumes.iter().all(is_healthy);
    Exit::of_health(pools.iter().filter(|pool| pool.is_ours()).all(well))
}

/// Whether a volume has the redundancy of its layout, and serves.
fn is_healthy(report: &VolumeReport) -> bool {
    !report.degraded && report.suspended().is_none()
}

/// What a volume is, for the question before it is destroyed.
pub async fn description(context: &Context, volume: &VolumeName) -> Result<String, Failure> {
    let report = context.client.volume(volume).await?;
    let uses = output::uses(&report.properties);
    let uses = if uses.is_empty() { String::new() } else { format!(", {uses}") };
    Ok(format!("{volume} ({}, {}{uses})", Human(report.size_bytes), report.layout))
}

async fn rename(context: &Context, args: RenameArgs) -> Result<Exit, Failure> {
    let RenameArgs { volume, name } = args;
    let name = match name.split_once('/') {
        None => name,
        Some((pool, name)) if pool == volume.pool() => name.to_owned(),
        Some((pool, _)) => {
            return Err(Failure::refused(
                format!("{volume} can't be renamed to {name}: that is in pool {pool}"),
                "a volume stays in its pool; make one there and copy what is on it",
            ));
        }
    };
    let path = format!("{}/rename", volume_path(&volume));
    let renamed: VolumeReport = context.client.post(&path, &RenameVolume { name }).await?;
    let text = || format!("{volume} is {}/{} now\n", volume.pool(), renamed.name);
    output::show(context.json, &renamed, text)?;
    Ok(Exit::Ok)
}

async fn remove(context: &Context, args: DestroyArgs) -> Result<Exit, Failure> {
    let volume = args.volume;
    let path = volume_path(&volume);
    if !args.confirmation.is_given() {
        let what = format!(
            "Volume {} and everything on it would be removed.\n",
            description(context, &volume).await?
        );
        // What the command would be refused for is said before anybody is asked.
        let () = context.client.delete_as(&path, &RemoveVolume { dry_run: true }).await?;
        if !confirm(context, &what, args.confirmation)? {
            return Ok(Exit::Ok);
        }
    }
    let () = context.client.delete_as(&path, &RemoveVolume { dry_run: false }).await?;
    done(context, &format!("{volume} is removed\n"))
}

async fn accept_loss(context: &Context, args: DestroyArgs) -> Result<Exit, Failure> {
    let volume = args.volume;
    let path = format!("{}/accept-loss", volume_path(&volume));
    if !args.confirmation.is_given() {
        let loss: String = context.client.post(&path, &AcceptLoss { dry_run: true }).await?;
        let what = format!("Volume {volume} would serve as it is for ever: {loss}.\n");
        if !confirm(context, &what, args.confirmation)? {
            return Ok(Exit::Ok);
        }
    }
    let _: String = context.client.post(&path, &AcceptLoss { dry_run: false }).await?;
    done(
        context,
        &format!("{volume} goes on without them; check what is on it (volume check, fsck)\n"),
    )
}

async fn mkfs(context: &Context, args: MkfsArgs) -> Result<Exit, Failure> {
    let volume = args.target.volume;
    let request = MakeFs { fstype: args.fstype, force: args.force, dry_run: true };
    let path = format!("{}/mkfs", volume_path(&volume));
    if !args.target.confirmation.is_given() {
        let what = format!(
            "A new {} would be made on {}; everything on it would be lost.\n",
            args.fstype,
            description(context, &volume).await?
        );
        let () = streamed(context, "looking at the volume", &path, &request).await?;
        if !confirm(context, &what, args.target.confirmation)? {
            return Ok(Exit::Ok);
        }
    }
    let request = MakeFs { dry_run: false, ..request };
    let () = streamed(context, "making the file system", &path, &request).await?;
    done(context, &format!("{} made on {volume}\n", args.fstype))
}

async fn verify(context: &Context, volume: &VolumeName, copy: Option<u8>) -> Result<Exit, Failure> {
    let path = format!("{}/verify", volume_path(volume));
    let report: VerifyReport =
        streamed(context, "verifying", &path, &VerifyVolume { copy }).await?;
    output::show(context.json, &report, || output::verification(&report))?;
    Ok(Exit::of_health(report.bad.is_empty() && report.more_bad == 0))
}

async fn mount(context: &Context, args: MountArgs) -> Result<Exit, Failure> {
    let path = std::path::absolute(&args.path).map_err(anyhow::Error::from)?;
    let mut request = MountVolume {
        path: path.clone(),
        fstype: args.fstype,
        options: args.options,
        move_from: None,
        dry_run: true,
    };
    let volume = args.volume;
    let route = format!("{}/mount", volume_path(&volume));
    let report = context.client.volume(&volume).await?;
    let has_one = VolumeSettings::from_properties(&report.properties).mount.is_some();
    if has_one || args.confirmation.dry_run {
        let preview: Option<Preview> = context.client.post(&route, &request).await?;
        let preview = preview.unwrap_or_default();
        let what = format!("Mounting {volume} at {} means:\n{}", path.display(), effects(&preview));
        let ask = preview.ends_something || args.confirmation.dry_run;
        if ask && !confirm_plan(context, &what, &preview, args.confirmation)? {
            return Ok(Exit::Ok);
        }
        request.move_from = preview.move_from;
    }
    request.dry_run = false;
    let _: Option<Preview> = context.client.post(&route, &request).await?;
    done(context, &format!("{volume} is mounted at {}\n", path.display()))
}

async fn unmount(context: &Context, volume: &VolumeName, dry_run: bool) -> Result<Exit, Failure> {
    let route = format!("{}/unmount", volume_path(volume));
    let preview: Option<Preview> =
        context.client.post(&route, &UnmountVolume { dry_run: true }).await?;
    let preview = preview.unwrap_or_default();
    if dry_run {
        let only_shown = Confirmation { yes: false, dry_run };
        let what = format!("Unmounting {volume} means:\n{}", effects(&preview));
        confirm_plan(context, &what, &preview, only_shown)?;
        return Ok(Exit::Ok);
    }
    if preview.ends_something {
        eprint!("Unmounting {volume} means:\n{}", effects(&preview));
    }
    let request = UnmountVolume { dry_run: false };
    let _: Option<Preview> = context.client.post(&route, &request).await?;
    done(context, &format!("{volume} is unmounted\n"))
}

async fn extend(
    context: &Context,
    volume: &VolumeName,
    mut request: ExtendVolume,
    confirmation: Confirmation,
) -> Result<Exit, Failure> {
    let path = format!("{}/extend", volume_path(volume));
    if request.resizefs || confirmation.dry_run {
        let ask = ExtendVolume { dry_run: true, ..request.clone() };
        let preview: Preview = context.client.post(&path, &ask).await?;
        let what = format!("Growing {volume} means:\n{}", effects(&preview));
        let needed = preview.ends_something || confirmation.dry_run;
        if needed && !confirm_plan(context, &what, &preview, confirmation)? {
            return Ok(Exit::Ok);
        }
        request.may_unmount = preview.ends_something;
    }
    let report: VolumeReport = streamed(context, "growing", &path, &request).await?;
    show(context, volume, &report)
}

async fn reduce(context: &Context, args: ReduceArgs) -> Result<Exit, Failure> {
    let ReduceArgs { volume, size, resizefs, force, confirmation } = args;
    let present = context.client.volume(&volume).await?;
    let Some(size_bytes) = size.of(present.size_bytes) else {
        return Err(Failure::usage(format!(
            "{volume} has {}; nothing would be left of it",
            Human(present.size_bytes)
        ))
        .remedy("give the size that is to be left of it, or take less of it away"));
    };
    let path = format!("{}/reduce", volume_path(&volume));
    let request = ReduceVolume { size_bytes, resizefs, force, dry_run: false };
    if !confirmation.is_given() {
        let ask = ReduceVolume { dry_run: true, ..request.clone() };
        let preview: Preview = context.client.post(&path, &ask).await?;
        let what = format!("Reducing {volume} means:\n{}", effects(&preview));
        if !confirm_plan(context, &what, &preview, confirmation)? {
            return Ok(Exit::Ok);
        }
    }
    let report: VolumeReport = streamed(context, "reducing", &path, &request).await?;
    show(context, &volume, &report)
}

async fn serve(context: &Context, args: ServeArgs) -> Result<Exit, Failure> {
    let volume = match &args.words[..] {
        [ServeWord::Volume(volume), ServeWord::Ftp]
        | [ServeWord::Ftp, ServeWord::Volume(volume)] => volume,
        _ => return Err(Failure::usage("want a volume and how to serve it: POOL/VOLUME ftp")),
    };
    let path = format!("{}/ftp", volume_path(volume));
    if args.stop {
        let () = context.client.delete(&path).await?;
        return done(context, &format!("{volume} is not served by FTP any more\n"));
    }
    let listen: SocketAddr = context.client.post(&path, &ServeFtp { listen: args.listen }).await?;
    output::show(context.json, &serde_json::json!({ "ftp": listen }), || {
        format!("{volume} is served at ftp://{listen}/\n")
    })?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::samples;
    use pool::PoolState;

    #[test]
    fn a_list_without_the_volumes_of_a_closed_pool_is_not_well() {
        let well = samples::pool();
        assert_eq!(health_of_volumes(std::slice::from_ref(&well)), Exit::Ok);
        let mut degraded = well.clone();
        degraded.volumes[0].degraded = true;
        assert_eq!(health_of_volumes(&[degraded]), Exit::Degraded);
        let closed = |state| PoolReport { state, volumes: Vec::new(), ..well.clone() };
        let incomplete = closed(PoolState::Incomplete { why: "e1.0".into() });
        assert_eq!(health_of_volumes(&[incomplete]), Exit::Degraded);
        assert_eq!(health_of_volumes(&[closed(PoolState::Released)]), Exit::Ok);
    }
}

//! `etherpool volume export` and `unexport`: a volume as an AoE disk.

use aoe_wire::ShelfSlot;
use block::VolumeName;
use clap::Args;
use client::volume_path;
use control::api::{ExportVolume, UnexportVolume};
use control::exit::Exit;
use control::names::{ExportTarget, ExportWish};
use control::settings::ClientMac;

use super::args::Confirmation;
use super::confirm::confirm;
use super::output;
use super::pool::done;
use super::volume::description;
use super::{Context, Failure};

/// Arguments of `volume export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The volume
    #[arg(value_name = "POOL/VOLUME")]
    volume: VolumeName,

    /// aoe:eSHELF.SLOT, or aoe for an address that is free
    target: ExportWish,

    /// Interface to answer on (repeat for more); all of the supervisor's by default
    #[arg(long, short)]
    interface: Vec<String>,

    /// Answer only this client (repeat for more); to all others the volume isn't there
    #[arg(long, value_name = "MAC")]
    allow: Vec<ClientMac>,

    /// Refuse writes
    #[arg(long)]
    read_only: bool,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Offers a volume as an AoE disk.
pub async fn export(context: &Context, args: ExportArgs) -> Result<Exit, Failure> {
    let confirmation = args.confirmation;
    let request = ExportVolume {
        address: args.target.0,
        interfaces: args.interface,
        // That is asked before, or said by --yes.
        everybody: args.allow.is_empty(),
        allow: args.allow,
        read_only: args.read_only,
        dry_run: confirmation.dry_run,
    };
    let path = format!("{}/export", volume_path(&args.volume));
    if confirmation.dry_run {
        let address: ShelfSlot = context.client.post(&path, &request).await?;
        let request = ExportVolume { address: Some(address), ..request };
        confirm(context, &export_question(context, &args.volume, &request).await?, confirmation)?;
        return Ok(Exit::Ok);
    }
    // Who is named is meant.
    if request.allow.is_empty() {
        let what = export_question(context, &args.volume, &request).await?;
        if !confirm(context, &what, confirmation)? {
            return Ok(Exit::Ok);
        }
    }
    let address: ShelfSlot = context.client.post(&path, &request).await?;
    output::show(context.json, &serde_json::json!({ "address": address }), || {
        format!("{} is exported as {address}\n", args.volume)
    })?;
    Ok(Exit::Ok)
}

/// Ends one export of a volume, or all.
pub async fn unexport(
    context: &Context,
    volume: &VolumeName,
    target: Option<ExportTarget>,
) -> Result<Exit, Failure> {
    let request = UnexportVolume { address: target.map(|target| target.0) };
    let path = format!("{}/unexport", volume_path(volume));
    let () = context.client.post(&path, &request).await?;
    done(context, &format!("{volume} is not exported any more\n"))
}

/// Who could do what with an export.
async fn export_question(
    context: &Context,
    volume: &VolumeName,
    request: &ExportVolume,
) -> Result<String, Failure> {
    let address =
        request.address.map_or("an AoE disk".to_owned(), |address| format!("aoe:{address}"));
    let interfaces = match &request.interfaces[..] {
        [] => {
            let status = context.client.status().await?;
            let own = status.engine.map(|engine| engine.interfaces).unwrap_or_default();
            own.into_iter().map(|interface| interface.name).collect()
        }
        named => named.to_vec(),
    };
    let interfaces = interfaces.join(", ");
    let may = if request.read_only { "read it" } else { "read and write it" };
    let whom = match &request.allow[..] {
        [] => format!(
            "Every machine on the segments of these interfaces could {may}: AoE has no passwords.\n\
             (Name the clients with --allow MAC to answer nobody else.)\n"
        ),
        clients => {
            let clients: Vec<String> =
                clients.iter().map(|client| client.mac().to_string()).collect();
            format!("Who sends from these addresses could {may}: {}\n", clients.join(", "))
        }
    };
    let volume = description(context, volume).await?;
    Ok(format!("Volume {volume} would be exported as {address} on {interfaces}.\n{whom}"))
}

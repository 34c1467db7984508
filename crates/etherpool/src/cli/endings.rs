//! `etherpool pool destroy`, `pool rename` and `disk wipe`. What is to end is shown first: what is shown is what is agreed to, and the supervisor is told just that.

use block::size::Human;
use clap::Args;
use client::pool_path;
use control::api::{RenamePool, WipeDisks};
use control::exit::Exit;
use control::names::DiskArgument;
use pool::{DestroyPlan, DestroyReport, LeftDisk, PoolReport, WipePlan, WipeReport};

use super::args::{Confirmation, parse_name};
use super::confirm::confirm_plan;
use super::disk::resolve_all;
use super::output;
use super::{Context, Failure};

/// Arguments of `pool destroy`.
#[derive(Debug, Args)]
pub struct DestroyArgs {
    /// Name or id of the pool, open here or not
    pool: String,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Arguments of `disk wipe`.
#[derive(Debug, Args)]
pub struct WipeArgs {
    /// Disks: eSHELF.SLOT, or a path on this machine that its node process exports
    #[arg(required = true, value_name = "DISK")]
    disks: Vec<DiskArgument>,

    /// Also take off what isn't etherpool's: partition tables, file systems
    #[arg(long)]
    signatures: bool,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// `pool destroy`.
pub async fn destroy(context: &Context, args: DestroyArgs) -> Result<Exit, Failure> {
    let plan: DestroyPlan =
        context.client.get(&format!("{}/destroy", pool_path(&args.pool)?)).await?;
    if !confirm_plan(context, &doomed(&plan), &plan, args.confirmation)? {
        return Ok(Exit::Ok);
    }
    // By its id: another one may have its name.
    let path = format!("{}/destroy", pool_path(&plan.id)?);
    let report: DestroyReport = context.client.post(&path, &plan).await?;
    output::show(context.json, &report, || destroyed(&report))?;
    Ok(if report.left.is_empty() { Exit::Ok } else { Exit::Failure })
}

/// `disk wipe`.
pub async fn wipe(context: &Context, args: WipeArgs) -> Result<Exit, Failure> {
    let listed = context.client.disks().await?;
    let disks = resolve_all(&listed, &args.disks)?;
    let request = WipeDisks { disks, signatures: args.signatures };
    let plan: WipePlan = context.client.post("/v2/disks/wipe/plan", &request).await?;
    let needs_word = plan.disks.iter().any(|disk| !disk.is_blank);
    if (needs_word || args.confirmation.dry_run)
        && !confirm_plan(context, &wiped_off(&plan), &plan, args.confirmation)?
    {
        return Ok(Exit::Ok);
    }
    let report: WipeReport = context.client.post("/v2/disks/wipe", &plan).await?;
    output::show(context.json, &report, || {
        let wiped = report.wiped.iter().map(|disk| format!("{disk} is free\n"));
        wiped.chain(std::iter::once(not_wiped(&report.left))).collect()
    })?;
    Ok(if report.left.is_empty() { Exit::Ok } else { Exit::Failure })
}

/// Arguments of `pool rename`.
#[derive(Debug, Args)]
pub struct RenameArgs {
    /// The pool, which is open here
    pool: String,

    /// Its new name
    #[arg(value_parser = parse_name)]
    name: String,

    /// Only say whether it could be done
    #[arg(long)]
    dry_run: bool,
}

/// `pool rename`.
pub async fn rename(context: &Context, args: RenameArgs) -> Result<Exit, Failure> {
    let RenameArgs { pool, name, dry_run } = args;
    let path = format!("{}/rename", pool_path(&pool)?);
    let request = RenamePool { name: name.clone(), dry_run };
    let renamed: PoolReport = context.client.post(&path, &request).await?;
    let text = || match dry_run {
        true => format!("Pool {pool} could be called {name}. Nothing was done (--dry-run).\n"),
        false => format!("{pool} is {} now\n", renamed.name),
    };
    output::show(context.json, &renamed, text)?;
    Ok(Exit::Ok)
}

/// What would end with a pool, as a question begins.
fn doomed(plan: &DestroyPlan) -> String {
    let mut text = format!("Pool {} ({}) would be destroyed, for good:\n", plan.name, plan.id);
    if let Some(owner) = &plan.owner {
        text.push_str(&format!(
            "  ** it is the supervisor's on {owner}, which doesn't use it now **\n"
        ));
    }
    match &plan.volumes {
        Some(volumes) if volumes.is_empty() => text.push_str("  it has no volumes\n"),
        Some(volumes) => text.extend(volumes.iter().map(|volume| {
            let size = Human(volume.size_bytes);
            format!("  volume {}/{}  {size}, with all that is in it\n", plan.name, volume.name)
        })),
        None => text.push_str(
            "  all its volumes; it isn't open here, so which these are isn't known (`pool import` shows them)\n",
        ),
    }
    let sized =
        |disk: &pool::DoomedDisk| format!("  disk {}  {}", disk.describe(), Human(disk.size_bytes));
    text.extend(plan.disks.iter().map(|disk| format!("{}, which is free then\n", sized(disk))));
    text.extend(plan.away.iter().map(|disk| {
        format!(
            "  disk {}, which is away: when it is back, `disk wipe` frees it\n",
            disk.describe()
        )
    }));
    text
}

fn destroyed(report: &DestroyReport) -> String {
    let mut text = format!("pool {} is destroyed", report.name);
    match report.wiped.is_empty() {
        true => text.push('\n'),
        false => text.push_str(&format!("; {} free\n", are(&report.wiped))),
    }
    text.extend(report.away.iter().map(|disk| {
        format!("disk {disk} was away: when it is back, `etherpool disk wipe` frees it\n")
    }));
    text.push_str(&not_wiped(&report.left));
    text
}

fn are(disks: &[String]) -> String {
    let verb = if disks.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", disks.join(", "))
}

fn not_wiped(left: &[LeftDisk]) -> String {
    let told = left.iter().map(|LeftDisk { disk, why }| {
        format!("disk {disk} could not be wiped: {why}; when it answers: `etherpool disk wipe`\n")
    });
    told.collect()
}

/// What would be taken off disks, as a question begins.
fn wiped_off(plan: &WipePlan) -> String {
    let mut text = "From these disks would be wiped:\n".to_owned();
    for disk in &plan.disks {
        let what = match disk.is_blank {
            true => "nothing, it is blank",
            false => &disk.carries,
        };
        let size = Human(disk.size_bytes);
        text.push_str(&format!(
            "  {}  {size}  {} on {}: {what}",
            disk.name, disk.device_name, disk.node
        ));
        match (&disk.pool, &disk.loss) {
            (_, Some(loss)) => text.push_str(&format!("\n    ** {loss} **\n")),
            (Some(pool), None) => {
                text.push_str(&format!(" (pool {pool}, which has no use for it)\n"))
            }
            (None, None) => text.push('\n'),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use pool::{DoomedDisk, DoomedVolume, WipedDisk};

    fn disk(name: &str) -> DoomedDisk {
        DoomedDisk {
            name: name.into(),
            id: "7".into(),
            node: "n1".into(),
            device_name: "/dev/sdb".into(),
            size_bytes: 1 << 30,
        }
    }

    #[test]
    fn what_ends_with_a_pool_is_named() {
        let volume = DoomedVolume { name: "files".into(), size_bytes: 1 << 30 };
        let mut plan = DestroyPlan {
            name: "tank".into(),
            id: "4711".into(),
            owner: None,
            volumes: Some(vec![volume]),
            disks: vec![disk("e1.0")],
            away: vec![disk("e2.0")],
        };
        let expected = "\
Pool tank (4711) would be destroyed, for good:
  volume tank/files  1.00 GiB, with all that is in it
  disk e1.0 (/dev/sdb on n1)  1.00 GiB, which is free then
  disk e2.0 (/dev/sdb on n1), which is away: when it is back, `disk wipe` frees it
";
        assert_eq!(doomed(&plan), expected, "\n{}", doomed(&plan));
        plan.volumes = None;
        plan.owner = Some("attic".into());
        let text = doomed(&plan);
        assert!(text.contains("on attic") && text.contains("isn't known"), "{text}");
    }

    #[test]
    fn what_is_wiped_is_named() {
        let disk = WipedDisk {
            name: "e1.0".into(),
            node: "n1".into(),
            device_name: "/dev/sdb".into(),
            size_bytes: 1 << 30,
            is_blank: false,
            carries: "etherpool, disk 3 of pool 4711".into(),
            pool: Some("tank".into()),
            loss: Some("pool tank would lose it".into()),
        };
        let text = wiped_off(&WipePlan { disks: vec![disk], signatures: false });
        let expected = "\
From these disks would be wiped:
  e1.0  1.00 GiB  /dev/sdb on n1: etherpool, disk 3 of pool 4711
    ** pool tank would lose it **
";
        assert_eq!(text, expected, "\n{text}");
        let report = DestroyReport {
            name: "tank".into(),
            id: "4711".into(),
            wiped: vec!["e1.0".into(), "e2.0".into()],
            left: Vec::new(),
            away: vec!["e3.0 (on n3)".into()],
        };
        let expected = "\
pool tank is destroyed; e1.0, e2.0 are free
disk e3.0 (on n3) was away: when it is back, `etherpool disk wipe` frees it
";
        assert_eq!(destroyed(&report), expected);
    }
}

//! Settings that came with a pool: shown in words, and acted on when a person says so.

use std::io::IsTerminal;

use client::pool_path;
use control::api::HeldReport;

use super::args::Confirmation;
use super::confirm::confirm;
use super::progress::remark_in_passing;
use super::{Context, Failure};

/// For the end of `pool import`, when the pool is open: shows what came with it and gets a word for it.
/// Without a word, or without anybody to ask, it stays held; the import has worked all the same.
/// Written to standard error: the import's own result is on standard output.
pub async fn ask(context: &Context, pool: &str, confirmation: Confirmation) -> Result<(), Failure> {
    let path = pool_path(pool)?;
    let held: Vec<HeldReport> = context.client.get(&format!("{path}/held")).await?;
    if held.is_empty() {
        return Ok(());
    }
    let tell = |text: &str| remark_in_passing(context.json, text);
    tell(&text(pool, &held));
    let wanted: Vec<&HeldReport> = held.iter().filter(|one| one.refused.is_none()).collect();
    let asked =
        confirmation.yes || std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let what = "All of this would be done now and from now on.\n";
    let confirmed = || confirm(context, what, confirmation).unwrap_or(false);
    if wanted.is_empty() || confirmation.dry_run || !asked || !confirmed() {
        tell(&later(pool));
        return Ok(());
    }
    let out: Vec<HeldReport> =
        context.client.post(&format!("{path}/confirm-settings"), &()).await?;
    if !out.is_empty() {
        tell(&format!("These stay out:\n{}", list(&out)));
    }
    Ok(())
}

/// For `pool show` and `status`: what waits, or nothing.
pub fn remark(held: &[HeldReport]) -> String {
    let mut pools: Vec<&str> = held.iter().map(|one| one.volume.pool()).collect();
    pools.dedup();
    let of_pool = |pool: &str| {
        let of_it: Vec<HeldReport> =
            held.iter().filter(|one| one.volume.pool() == pool).cloned().collect();
        format!("\nwaits for confirmation (`etherpool pool import {pool}` asks):\n{}", list(&of_it))
    };
    pools.into_iter().map(of_pool).collect()
}

fn text(pool: &str, held: &[HeldReport]) -> String {
    format!("These settings came with pool {pool}; nothing is done by them yet:\n{}", list(held))
}

fn list(held: &[HeldReport]) -> String {
    let line = |one: &HeldReport| {
        let refused = one.refused.as_ref();
        let refused = refused.map_or_else(String::new, |why| format!("\n    stays out: {why}"));
        format!("  {}: {}{refused}\n", one.volume, one.what)
    };
    held.iter().map(line).collect()
}

fn later(pool: &str) -> String {
    format!(
        "They wait. To have them acted on: etherpool pool import {pool} --yes\n\
         To set others instead: etherpool volume mount, serve, export, attach; to forget them: \
         volume unmount, serve --stop, unexport, detach\n"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use block::VolumeName;

    #[test]
    fn what_waits_is_listed_by_pool_with_what_stays_out() {
        let one = |pool: &str, refused: Option<&str>| HeldReport {
            volume: VolumeName::new(pool, "v").unwrap(),
            key: "mount".into(),
            what: "mount at /srv/v as ext4".into(),
            refused: refused.map(str::to_owned),
        };
        assert_eq!(remark(&[]), "");
        assert_eq!(
            remark(&[one("a", None), one("b", Some("not there"))]),
            "\nwaits for confirmation (`etherpool pool import a` asks):\n  \
             a/v: mount at /srv/v as ext4\n\
             \nwaits for confirmation (`etherpool pool import b` asks):\n  \
             b/v: mount at /srv/v as ext4\n    stays out: not there\n"
        );
    }
}

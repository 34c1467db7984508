//! `etherpool boot copies`, `restore` and `forget-copy`: what pools keep of boot servers, and the way back from there.
//!
//! What is in a pool is as true as whoever had its disks: so all that would be is shown before, and nodes are accepted anew.

use clap::Args;
use client::pool_path;
use control::boot::{Assignment, Copied, Machine, MachineId};
use control::exit::Exit;
use pool::{KeeperId, KeptNotes};

use super::args::{Confirmation, parse_name};
use super::boot::StateArgs;
use super::confirm::{confirm, confirm_plan};
use super::output::{self, CopyShown, RestoreShown};
use super::pool::done;
use super::{Context, Failure};
use crate::boot::kept::read_needed;
use crate::boot::lineage::Lineage;
use crate::boot::restoring::{Fate, Restored, judge};
use crate::boot::slots::{self, AllSlots};
use crate::boot::state::State;

/// Arguments of `boot copies`.
#[derive(Debug, Args)]
pub struct CopiesArgs {
    /// The pool
    #[arg(value_parser = parse_name)]
    pool: String,

    /// Print the file of this machine, as it would be restored
    #[arg(long, value_name = "NAME|UUID|MAC")]
    machine: Option<MachineId>,

    /// Of the copy of this boot server alone
    #[arg(long, value_name = "ID")]
    from: Option<KeeperId>,

    #[command(flatten)]
    state: StateArgs,
}

/// Arguments of `boot restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The pool, which has to be open here
    #[arg(value_parser = parse_name)]
    pool: String,

    /// The copy of this boot server; needed where the pool has several of others
    #[arg(long, value_name = "ID")]
    from: Option<KeeperId>,

    /// Only this machine; repeat for more. All, and what all others boot, by default
    #[arg(long = "machine", value_name = "NAME|UUID|MAC")]
    machines: Vec<MachineId>,

    /// Also where something else is known here: that is overwritten, but for keys
    #[arg(long)]
    replace: bool,

    #[command(flatten)]
    state: StateArgs,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Arguments of `boot forget-copy`.
#[derive(Debug, Args)]
pub struct ForgetCopyArgs {
    /// The pool
    #[arg(value_parser = parse_name)]
    pool: String,

    /// Of which boot server, by its id
    #[arg(value_name = "ID")]
    server: KeeperId,

    #[command(flatten)]
    state: StateArgs,

    #[command(flatten)]
    confirmation: Confirmation,
}

async fn copies_of(context: &Context, pool: &str) -> Result<Vec<KeptNotes>, Failure> {
    Ok(context.client.get(&format!("{}/boot-copies", pool_path(pool)?)).await?)
}

/// The id of the boot server of this machine.
fn own_id(state: Option<&State>) -> Result<Option<KeeperId>, Failure> {
    let lineage = state.map(Lineage::of).transpose()?.flatten();
    Ok(lineage.map(|lineage| lineage.id))
}

/// Those of all, or of one boot server.
fn only_from(
    copies: Vec<KeptNotes>,
    from: Option<KeeperId>,
    pool: &str,
) -> Result<Vec<KeptNotes>, Failure> {
    let Some(from) = from else { return Ok(copies) };
    let found: Vec<KeptNotes> = copies.into_iter().filter(|copy| copy.keeper == from).collect();
    match found.is_empty() {
        true => Err(no_copy(pool, from)),
        false => Ok(found),
    }
}

fn no_copy(pool: &str, server: KeeperId) -> Failure {
    Failure::not_found(
        format!("pool {pool} has no copy of the boot server {server}"),
        format!("see `etherpool boot copies {pool}`"),
    )
}

fn shown(copies: &[KeptNotes], own: Option<KeeperId>) -> Vec<CopyShown<'_>> {
    let copies = copies.iter();
    copies
        .map(|kept| CopyShown {
            is_own: own == Some(kept.keeper),
            copied: Copied::read(kept),
            kept,
        })
        .collect()
}

/// `boot copies`.
pub async fn copies(context: &Context, args: &CopiesArgs) -> Result<Exit, Failure> {
    let own = own_id(args.state.present()?.as_ref())?;
    let copies = only_from(copies_of(context, &args.pool).await?, args.from, &args.pool)?;
    let Some(machine) = &args.machine else {
        let shown = shown(&copies, own);
        output::show(context.json, &copies, || output::boot_copies(&args.pool, &shown))?;
        let is_whole = |one: &CopyShown| one.copied.wrong.is_empty() && one.kept.left_out == 0;
        return Ok(Exit::of_health(shown.iter().all(is_whole)));
    };
    let found = copies.iter().flat_map(|copy| Copied::read(copy).machines);
    let mut texts = Vec::new();
    for found in found.filter(|one| one.is(machine)) {
        texts.push(found.to_text().map_err(anyhow::Error::from)?);
    }
    if texts.is_empty() {
        return Err(Failure::not_found(
            format!("pool {} has no copy of a machine {machine}", args.pool),
            format!("see `etherpool boot copies {}`", args.pool),
        ));
    }
    output::show(context.json, &texts, || texts.join("\n"))?;
    Ok(Exit::Ok)
}

/// The copy that is meant: where none is named the only one of another boot server, or else this one's own.
fn choose<'c>(
    copies: &'c [KeptNotes],
    own: Option<KeeperId>,
    pool: &str,
) -> Result<&'c KeptNotes, Failure> {
    let (own, others): (Vec<_>, Vec<_>) = copies.iter().partition(|copy| own == Some(copy.keeper));
    match (others.as_slice(), own.as_slice()) {
        ([one], _) | ([], [one]) => Ok(one),
        ([], _) => Err(Failure::not_found(
            format!("pool {pool} has no copy of what a boot server knows"),
            "see whether another pool has one, or copy its directory from a backup",
        )),
        (several, _) => {
            let ids: Vec<String> =
                several.iter().map(|one| format!("{} ({})", one.keeper, one.host)).collect();
            Err(Failure::refused(
                format!("pool {pool} has copies of several boot servers: {}", ids.join(", ")),
                "choose one: --from ID",
            ))
        }
    }
}

/// `boot restore`.
pub async fn restore(context: &Context, args: &RestoreArgs) -> Result<Exit, Failure> {
    let pool = &args.pool;
    let copies = only_from(copies_of(context, pool).await?, args.from, pool)?;
    let present = args.state.present()?;
    let own = own_id(present.as_ref())?;
    let kept = choose(&copies, own, pool)?;
    let mut copied = Copied::read(kept);
    if !args.machines.is_empty() {
        copied.default = None;
        for id in &args.machines {
            if !copied.machines.iter().any(|machine| machine.is(id)) {
                return Err(Failure::not_found(
                    format!("the copy in pool {pool} has no machine {id}"),
                    format!("see `etherpool boot copies {pool}`"),
                ));
            }
        }
        copied.machines.retain(|machine| args.machines.iter().any(|id| machine.is(id)));
    }
    let (here, wrong) = present.as_ref().map(State::machines).transpose()?.unwrap_or_default();
    wrong.iter().for_each(|error| eprintln!("warning: {error}; correct it"));
    let (slots, default): (AllSlots, _) = match &present {
        Some(state) => {
            let default = state.default().map_err(|error| {
                Failure::refused(error.to_string(), "correct it, or take that file away")
            })?;
            (read_needed(&state.root, slots::FILE)?, default)
        }
        None => Default::default(),
    };
    let judged = judge(copied.machines, &here, &slots);
    let (mut all, mut refused) = (Vec::new(), copied.wrong);
    for one in judged {
        one.map_or_else(|why| refused.push(why), |restored| all.push(restored));
    }
    let new_default = copied.default.filter(|boot| default.as_ref() != Some(boot));
    let shown =
        RestoreShown::of(&all, args.replace, refused, default.as_ref(), new_default.as_ref());
    let sets_default = new_default.filter(|_| default.is_none() || args.replace);
    let is_whole = shown.refused.is_empty();
    let wanted = all.into_iter().filter(|one| is_wanted(one, args.replace));
    let wanted: Vec<Restored> = wanted.collect();
    // All of it is here then, and may be copied over what is there.
    let learns = is_whole
        && own == Some(kept.keeper)
        && args.machines.is_empty()
        && shown.left.is_empty()
        && shown.default_left.is_none();
    if wanted.is_empty() && sets_default.is_none() {
        if let Some(state) = present.filter(|_| learns && !args.confirmation.dry_run) {
            Lineage::with(&state, Some(kept.mark))?;
        }
        output::show(context.json, &shown, || output::restoring(&shown, kept))?;
        return Ok(Exit::of_health(is_whole));
    }
    if !confirm_plan(context, &output::restoring(&shown, kept), &shown, args.confirmation)? {
        return Ok(Exit::Ok);
    }
    let state = args.state.open()?;
    keep(&state, &here, &wanted, sets_default)?;
    if learns {
        Lineage::with(&state, Some(kept.mark))?;
    }
    output::show(context.json, &shown, || output::restored(&shown))?;
    Ok(Exit::of_health(is_whole))
}

fn is_wanted(one: &Restored, replace: bool) -> bool {
    match one.fate {
        Fate::New | Fate::Filled => true,
        Fate::Differs => replace,
        Fate::Same => false,
    }
}

/// Each is kept by itself: where that ends half way, the command does the rest when it is given again.
fn keep(
    state: &State,
    here: &[Machine],
    wanted: &[Restored],
    default: Option<Assignment>,
) -> Result<(), Failure> {
    let turn = state.turn_after(here)?;
    for Restored { machine, former, .. } in wanted {
        state.keep(&turn, machine, former.as_ref())?;
    }
    if let Some(boot) = default {
        state.set_default(&turn, Some(boot))?;
    }
    Ok(())
}

/// `boot forget-copy`.
pub async fn forget(context: &Context, args: &ForgetCopyArgs) -> Result<Exit, Failure> {
    let pool = &args.pool;
    let own = own_id(args.state.present()?.as_ref())?;
    let copies = copies_of(context, pool).await?;
    let (gone, stays): (Vec<_>, Vec<_>) =
        shown(&copies, own).into_iter().partition(|one| one.kept.keeper == args.server);
    let [gone] = gone.as_slice() else { return Err(no_copy(pool, args.server)) };
    if !confirm(context, &output::forgetting(pool, gone, &stays), args.confirmation)? {
        return Ok(Exit::Ok);
    }
    let path = format!("{}/boot-copies/{}", pool_path(pool)?, args.server);
    context.client.delete::<()>(&path).await?;
    done(context, &format!("Pool {pool} has no copy of the boot server {} any more.", args.server))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_copy_of_another_is_meant_and_of_several_one_is_named() {
        let copy = |id: u64| KeptNotes { keeper: KeeperId(id), ..KeptNotes::default() };
        let choose = |copies: &[KeptNotes], own: Option<u64>| {
            let chosen = super::choose(copies, own.map(KeeperId), "p");
            chosen.map(|one| one.keeper.0).map_err(|failure| failure.exit)
        };
        assert_eq!(choose(&[], None), Err(Exit::NotFound));
        assert_eq!(choose(&[copy(1)], None), Ok(1));
        assert_eq!(choose(&[copy(1)], Some(1)), Ok(1), "files may be lost one by one");
        assert_eq!(choose(&[copy(1), copy(2)], Some(1)), Ok(2));
        assert_eq!(choose(&[copy(1), copy(2)], None), Err(Exit::Refused));
        assert!(only_from(vec![copy(1)], Some(KeeperId(2)), "p").is_err());
    }
}

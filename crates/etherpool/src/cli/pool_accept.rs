//! `etherpool pool accept`: disks that another machine has than had them, taken where they are now.

use std::collections::BTreeSet;
use std::fmt::Write;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use client::pool_path;
use control::exit::Exit;
use pool::{MovedDisk, PoolDisk};
use seal::PublicKey;

use super::args::Confirmation;
use super::confirm::confirm_plan;
use super::output;
use super::{Context, Failure};

/// Arguments of `pool accept`.
#[derive(Debug, Args)]
pub struct AcceptArgs {
    /// The pool, which needn't be open
    pool: String,

    /// The disks by their addresses or the names that the pool has for them, or machines that have them now by their names or keys; all that were moved without any
    #[arg(value_name = "DISK|NODE|KEY", value_parser = NonEmptyStringValueParser::new())]
    names: Vec<String>,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// `pool accept`.
pub async fn accept(context: &Context, args: AcceptArgs) -> Result<Exit, Failure> {
    let AcceptArgs { pool, names, confirmation } = args;
    let path = pool_path(&pool)?;
    let moved: Vec<MovedDisk> = context.client.get(&format!("{path}/moved")).await?;
    // What is present needn't be asked for.
    let is_known = |name| moved.iter().any(|one| is_meant(name, one));
    let known = match names.iter().all(is_known) {
        true => Vec::new(),
        // One that can't be looked at has no names for disks.
        false => context.client.pool(&pool).await.map(|pool| pool.disks).unwrap_or_default(),
    };
    let shown = named(&pool, moved, &names, &known)?;
    if !shown.is_empty() {
        if !confirm_plan(context, &describe(&pool, &shown), &shown, confirmation)? {
            return Ok(Exit::Ok);
        }
        let () = context.client.post(&format!("{path}/accept"), &shown).await?;
    }
    output::show(context.json, &shown, || match shown.is_empty() {
        true => format!(
            "Pool {pool}: no disk that is present is known to have been on another machine\n"
        ),
        false => format!(
            "Pool {pool} takes {} where they are now; see `etherpool pool show {pool}`, or import it if it isn't open\n",
            if shown.len() == 1 { "1 disk".to_owned() } else { format!("{} disks", shown.len()) }
        ),
    })?;
    Ok(Exit::Ok)
}

/// Whether a disk is meant by how it is present. Supervisors of version 0.1 tell no ids, by which no disk is meant then.
fn is_meant(name: &String, one: &MovedDisk) -> bool {
    !name.is_empty() && [&one.disk, &one.id, &one.to, &one.to_key.to_string()].contains(&name)
}

/// Those that are meant; `known` are the pool's disks by its own names, which count where nothing that is present is called so.
fn named(
    pool: &str,
    mut moved: Vec<MovedDisk>,
    names: &[String],
    known: &[PoolDisk],
) -> Result<Vec<MovedDisk>, Failure> {
    let by_present = |name: &String| moved.iter().any(|one| is_meant(name, one));
    let (present, others): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|name| by_present(name));
    let by_pool = |name: &String, one: &MovedDisk| {
        known.iter().any(|disk| disk.name == *name && disk.id == one.id && !one.id.is_empty())
    };
    let is_meant = |name: &String, one: &MovedDisk| match present.contains(&name) {
        true => is_meant(name, one),
        false => by_pool(name, one),
    };
    // A machine calls itself what it likes, also as another one.
    for name in names {
        let named = moved.iter().filter(|one| one.to == *name);
        let keys: BTreeSet<PublicKey> = named.map(|one| one.to_key).collect();
        if keys.len() > 1 {
            return Err(Failure::refused(
                format!("{} machines call themselves {name}", keys.len()),
                "name the right one by its key (`etherpool key show` there)",
            ));
        }
    }
    if let Some(name) = others.into_iter().find(|name| !moved.iter().any(|one| by_pool(name, one)))
    {
        return Err(Failure::not_found(
            format!(
                "{name} is no disk of pool {pool} on another machine than before, nor such a machine"
            ),
            format!("see which there are: etherpool pool accept {pool} --dry-run"),
        ));
    }
    moved.retain(|one| names.is_empty() || names.iter().any(|name| is_meant(name, one)));
    Ok(moved)
}

fn describe(pool: &str, shown: &[MovedDisk]) -> String {
    let mut text =
        format!("Pool {pool} would take these disks from the machines that have them now:\n");
    for MovedDisk { disk, device_name, serial, from, from_key, to, to_key, .. } in shown {
        let serial = if serial.is_empty() { String::new() } else { format!(", serial {serial}") };
        let before = match from_key {
            Some(from_key) => format!("was on {from}, key {from_key}"),
            None => "was on no machine that is known".to_owned(),
        };
        let _ = writeln!(
            text,
            "  {disk} ({device_name}{serial}): {before}\n    is on {to}, key {to_key}"
        );
    }
    text + "What these machines show is believed as far as checksums don't tell otherwise: say yes if you moved the disks, or\n\
            if the machines have other keys since they were set up anew (`etherpool key show` tells theirs).\n"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cli::output::samples;

    fn moved(disk: &str, to: &str) -> MovedDisk {
        MovedDisk {
            id: format!("id of {disk}"),
            disk: disk.into(),
            device_name: format!("/dev/{disk}"),
            serial: "WD-1".into(),
            from: "n1".into(),
            from_key: Some(PublicKey([1; 32])),
            to: to.into(),
            to_key: PublicKey([2; 32]),
        }
    }

    #[test]
    fn disks_are_meant_by_their_names_or_their_machines() {
        let all = || vec![moved("e2.0", "n2"), moved("e2.1", "n2"), moved("e3.0", "n3")];
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let named = named("tank", all(), &names, &[]);
            named.map(|named| named.into_iter().map(|one| one.disk).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]).unwrap().len(), 3);
        assert_eq!(of(&["n2"]).unwrap(), ["e2.0", "e2.1"]);
        assert_eq!(of(&["e3.0", "e2.1"]).unwrap(), ["e2.1", "e3.0"]);
        assert_eq!(of(&[&PublicKey([2; 32]).to_string()]).unwrap().len(), 3);
        let mut two = all();
        two[1].to_key = PublicKey([3; 32]);
        let name = |name: &str| named("tank", two.clone(), &[name.to_owned()], &[]);
        assert!(name("n2").is_err(), "which of them?");
        assert_eq!(name(&PublicKey([3; 32]).to_string()).unwrap(), two[1..2]);
        assert!(of(&["n1"]).is_err(), "where they were isn't where they are");
        // By what the pool calls them, unless that is another one by now.
        let known = |name: &str, id: &str| PoolDisk {
            name: name.into(),
            id: id.into(),
            ..samples::pool().disks.remove(0)
        };
        let known = [known("e9.0", "id of e3.0"), known("e2.0", "id of e3.0")];
        let by_pool = |name: &str| named("tank", all(), &[name.to_owned()], &known);
        assert_eq!(by_pool("e9.0").unwrap(), all()[2..]);
        assert_eq!(by_pool("e2.0").unwrap(), all()[..1]);
        assert!(by_pool("e8.0").is_err());
        // Of version 0.1.
        let former = || all().into_iter().map(|one| MovedDisk { id: String::new(), ..one });
        let nameless = [PoolDisk { id: String::new(), ..known[0].clone() }];
        for name in ["", "e9.0"] {
            let found = named("tank", former().collect(), &[name.to_owned()], &nameless);
            assert!(found.is_err(), "'{name}': {found:?}");
        }
        let text = describe("tank", &all());
        assert!(text.contains("e2.0 (/dev/e2.0, serial WD-1): was on n1"), "{text}");
    }
}

//! `etherpool status`: the page for three in the morning; its exit code says whether all is well.

use std::time::Duration;

use clap::Args;
use control::alerts::{Kind, Wrong};
use control::api::{ServiceState, Status};
use control::exit::Exit;
use pool::PoolReport;
use serde::Serialize;

use super::output;
use super::{Context, Failure};

/// What is to be seen of it.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print only what is wrong, and nothing when all is well
    #[arg(short = 'x', long)]
    only_wrong: bool,
    /// Draw it anew on the terminal every so many seconds, until it is interrupted
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    watch: Option<u64>,
}

/// Arguments of `pool status`.
#[derive(Debug, Args)]
pub struct PoolStatusArgs {
    /// The pool (default: all)
    pool: Option<String>,
    /// Print only what is wrong, and nothing when all is well
    #[arg(short = 'x', long)]
    only_wrong: bool,
}

/// What `pool status` prints as JSON.
#[derive(Serialize)]
struct OfPools<'a> {
    wrong: Option<&'a [Wrong]>,
    pools: &'a [PoolReport],
}

/// `pool status`: the same of pools alone.
pub async fn of_pool(context: &Context, args: PoolStatusArgs) -> Result<Exit, Failure> {
    let mut status = ask(context, false).await?;
    if let Some(name) = &args.pool {
        // What can't be found is asked for by name: the answer says what to do.
        if !status.pools.iter().any(|pool| is_named(pool, name)) && !is_wrong(&status, name) {
            status.pools.push(context.client.pool(name).await?);
        }
    }
    let mut status = narrowed(status, args.pool.as_deref());
    if args.only_wrong {
        keep_what_lasts(&mut status);
        output::show(context.json, &OnlyWrong::of(&status), || text(&status, true))?;
        return Ok(exit_of(&status));
    }
    if context.json {
        let OnlyWrong { wrong } = OnlyWrong::of(&status);
        output::print_json(&OfPools { wrong, pools: &status.pools })?;
        return Ok(exit_of(&status));
    }
    let mut text = output::wrong(&status);
    let shown = match (&args.pool, status.pools.as_slice()) {
        (Some(_), [pool]) => output::pool(pool, status.at_secs),
        (_, pools) => output::pool_table(pools, output::terminal_width()),
    };
    text.push('\n');
    text.push_str(&shown);
    output::print(&text)?;
    Ok(exit_of(&status))
}

fn is_named(pool: &PoolReport, name: &str) -> bool {
    pool.name == name || pool.id == name
}

/// Also one that isn't there, and therefore among the wrong alone.
fn is_wrong(status: &Status, name: &str) -> bool {
    status.wrong.iter().flatten().any(|one| one.pool.as_deref() == Some(name))
}

/// What is of one pool, or of any. An engine that doesn't run is the trouble of all of them.
fn narrowed(mut status: Status, pool: Option<&str>) -> Status {
    if let Some(name) = pool {
        status.pools.retain(|pool| is_named(pool, name));
    }
    let names: Vec<&str> = status.pools.iter().map(|pool| pool.name.as_str()).chain(pool).collect();
    if let Some(wrong) = &mut status.wrong {
        wrong.retain(|one| match (&one.pool, pool) {
            (Some(of), Some(_)) => names.contains(&of.as_str()),
            (Some(_), None) => true,
            (None, _) => one.kind == Kind::EngineDown.name(),
        });
    }
    status.services.retain(|service| pool.is_none() || names.contains(&service.volume.pool()));
    status
}

/// What `-x` prints as JSON.
#[derive(Serialize)]
struct OnlyWrong<'a> {
    /// Null where the supervisor is of before: an empty list would say that all is well.
    wrong: Option<&'a [Wrong]>,
}

impl OnlyWrong<'_> {
    fn of(status: &Status) -> OnlyWrong<'_> {
        OnlyWrong { wrong: status.wrong.as_deref() }
    }
}

/// What the supervisor says.
async fn ask(context: &Context, only_wrong: bool) -> Result<Status, Failure> {
    let mut status = context.client.status().await?;
    if only_wrong {
        keep_what_lasts(&mut status);
    }
    Ok(status)
}

/// `-x` is asked by scripts: what may pass by itself wakes nobody there either.
fn keep_what_lasts(status: &mut Status) {
    if let Some(wrong) = &mut status.wrong {
        wrong.retain(|one| !one.may_pass);
    }
}

/// Runs it.
pub async fn run(context: &Context, args: StatusArgs) -> Result<Exit, Failure> {
    match args.watch {
        Some(seconds) => watch(context, args.only_wrong, Duration::from_secs(seconds)).await,
        None => once(context, args.only_wrong).await,
    }
}

async fn once(context: &Context, only_wrong: bool) -> Result<Exit, Failure> {
    let status = ask(context, only_wrong).await?;
    match only_wrong {
        true => output::show(context.json, &OnlyWrong::of(&status), || text(&status, true))?,
        false => output::show(context.json, &status, || text(&status, false))?,
    }
    Ok(exit_of(&status))
}

fn text(status: &Status, only_wrong: bool) -> String {
    match (only_wrong, exit_of(status)) {
        (true, Exit::Ok) => String::new(),
        (true, _) => output::wrong(status),
        (false, _) => output::status(status, output::terminal_width()),
    }
}

/// Until whoever watches has seen enough. A supervisor that doesn't answer is waited for: it may be what is watched.
async fn watch(context: &Context, only_wrong: bool, every: Duration) -> Result<Exit, Failure> {
    if context.json || output::terminal_size().is_none() {
        return Err(Failure::usage(
            "--watch draws on a terminal: standard output must be one, without --json",
        ));
    }
    // What is wrong with the command itself isn't waited for.
    ask(context, only_wrong).await?;
    loop {
        let page = match ask(context, only_wrong).await {
            Ok(status) => match text(&status, only_wrong) {
                page if page.is_empty() => "all is well\n".to_owned(),
                page => page,
            },
            Err(failure) => format!("{}\n", failure.text(false)),
        };
        let Some(size) = output::terminal_size() else { return Ok(Exit::Ok) };
        if !output::redraw(&page, size)? {
            return Ok(Exit::Ok);
        }
        tokio::time::sleep(every).await;
    }
}

fn exit_of(status: &Status) -> Exit {
    Exit::of_health(match &status.wrong {
        Some(wrong) => wrong.is_empty(),
        None => is_healthy(status),
    })
}

/// By what a supervisor of before says, which doesn't tell what is wrong.
fn is_healthy(status: &Status) -> bool {
    let waiting = |service: &control::api::VolumeServices| {
        [&service.mount, &service.ftp].contains(&&ServiceState::Waiting)
            || service.trouble.is_some()
    };
    let mut ours = status.pools.iter().filter(|report| report.is_ours());
    status.engine.is_some()
        && status.troubles.is_empty()
        && ours.all(pool::PoolReport::is_healthy)
        && !status.services.iter().any(waiting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::samples;

    #[test]
    fn the_exit_code_says_whether_anything_is_wrong() {
        let well = samples::status();
        assert_eq!(exit_of(&well), Exit::Ok);
        assert_eq!(text(&well, true), "", "-x is silent");
        // Though pools and services look as ever: a drive that fails, contents that are lost.
        let wrong = Status { wrong: Some(vec![samples::wrong()]), ..well };
        assert_eq!(exit_of(&wrong), Exit::Degraded);
        let (only, all) = (text(&wrong, true), text(&wrong, false));
        assert!(!only.is_empty() && all.starts_with(&only) && all.len() > only.len(), "{all}");
    }

    #[test]
    fn what_may_pass_is_seen_and_wakes_no_script() {
        let passing = Wrong { may_pass: true, ..samples::wrong() };
        let mut status = Status { wrong: Some(vec![passing]), ..samples::status() };
        assert_eq!(exit_of(&status), Exit::Degraded);
        assert!(text(&status, false).contains("it may pass by itself"));
        keep_what_lasts(&mut status);
        assert_eq!((exit_of(&status), text(&status, true).as_str()), (Exit::Ok, ""));
    }

    #[test]
    fn one_pool_is_not_troubled_by_another() {
        let other = Wrong { pool: Some("tank".into()), ..samples::wrong() };
        let interface =
            Wrong { kind: Kind::InterfaceDown.to_string(), pool: None, ..samples::wrong() };
        let engine = Wrong { kind: Kind::EngineDown.to_string(), pool: None, ..samples::wrong() };
        let all = Status {
            wrong: Some(vec![samples::wrong(), other, interface, engine]),
            ..samples::status()
        };
        let of = |pool: Option<&str>| {
            let status = narrowed(all.clone(), pool);
            let wrong = status.wrong.unwrap_or_default().into_iter();
            wrong.map(|one| (one.kind, one.pool.unwrap_or_default())).collect::<Vec<_>>()
        };
        let gone = |pool: &str| (Kind::DiskGone.to_string(), pool.to_owned());
        let down = (Kind::EngineDown.to_string(), String::new());
        assert_eq!(of(Some("cluster")), [gone("cluster"), down.clone()]);
        assert_eq!(of(Some(&samples::pool().id)), [gone("cluster"), down.clone()]);
        assert_eq!(of(Some("tank")), [gone("tank"), down.clone()]);
        assert_eq!(of(None), [gone("cluster"), gone("tank"), down]);
    }

    #[test]
    fn what_a_supervisor_of_before_says_is_judged_here() {
        let well = Status { wrong: None, ..samples::status() };
        assert_eq!(exit_of(&well), Exit::Ok);

        let mut status = well.clone();
        status.engine = None;
        assert_eq!(exit_of(&status), Exit::Degraded);
        assert!(!text(&status, true).is_empty(), "-x isn't silent then");

        let mut status = well.clone();
        status.pools[0].state = pool::PoolState::Degraded;
        assert_eq!(exit_of(&status), Exit::Degraded);

        let mut status = well.clone();
        status.pools[0].state = pool::PoolState::Foreign;
        assert_eq!(exit_of(&status), Exit::Ok);

        let mut status = well.clone();
        status.troubles.push("pools.json can't be written".into());
        assert_eq!(exit_of(&status), Exit::Degraded);

        let mut status = well.clone();
        status.services[0].ftp = ServiceState::Waiting;
        assert_eq!(exit_of(&status), Exit::Degraded);

        let mut status = well;
        status.services[0].trouble = Some("it has not answered for 11 s".into());
        assert_eq!(exit_of(&status), Exit::Degraded);
    }
}

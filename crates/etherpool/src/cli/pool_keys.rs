//! `etherpool pool key` and `pool admit`: whom the disks of a pool obey.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use client::pool_path;
use control::api::{
    ApiError, ErrorCode, NamedSupervisor, PoolKeyReport, PoolKeySecret, RevokeSupervisor, RotateKey,
};
use control::exit::Exit;
use seal::PublicKey;
use zeroize::Zeroizing;

use super::args::Confirmation;
use super::confirm::confirm;
use super::output;
use super::{Context, Failure};

/// Longer than the file of a key ever is.
const FILE_BYTES_MAX: u64 = 256;

/// A pool's key, by which its disks know whom to obey.
#[derive(Debug, Subcommand)]
pub enum PoolKeyCommand {
    /// Show a pool's key, the supervisors that may have its disks, and disks that don't know the newest yet
    List {
        /// The pool
        pool: String,
    },
    /// Write a copy of the secret half to a new file: without it nobody else can be let in once this machine is lost
    Export {
        /// The pool
        pool: String,

        /// The file, which mustn't be there yet
        file: PathBuf,
    },
    /// Take the secret half from a copy, so that this machine may let in supervisors, itself among them
    Import {
        /// The pool
        pool: String,

        /// The copy
        file: PathBuf,
    },
    /// Give a pool another key, or its first one: copies of the former one are worth nothing then
    Rotate {
        /// The pool
        pool: String,

        /// Nobody has the secret half of the present key any more. Disks that are away go on obeying whom it let in, until they
        /// are back
        #[arg(long)]
        lost_key: bool,

        #[command(flatten)]
        confirmation: Confirmation,
    },
    /// Shut a supervisor out, with another key for the pool, as it may have had this one
    Revoke {
        /// The pool
        pool: String,

        /// The supervisor's key
        supervisor: PublicKey,

        /// Nobody has the secret half of the present key any more. Disks that are away go on obeying whom it let in, until they
        /// are back
        #[arg(long)]
        lost_key: bool,

        #[command(flatten)]
        confirmation: Confirmation,
    },
}

/// Arguments of `pool admit`.
#[derive(Debug, Args)]
pub struct AdmitArgs {
    /// The pool
    pool: String,

    /// The supervisor's key, as `etherpool key show` tells it there
    supervisor: PublicKey,

    #[command(flatten)]
    confirmation: Confirmation,
}

/// Runs it.
pub async fn run(context: &Context, command: PoolKeyCommand) -> Result<Exit, Failure> {
    match command {
        PoolKeyCommand::List { pool } => {
            let report: Option<PoolKeyReport> = context.client.get(&key_path(&pool)?).await?;
            let unheard = report.as_ref().is_some_and(|report| !report.unheard.is_empty());
            output::show(context.json, &report, || match &report {
                Some(report) => describe(report),
                None => format!(
                    "Pool {pool} has no key: its disks obey whoever claims them.\n\
                     To make one: etherpool pool key rotate {pool}\n"
                ),
            })?;
            Ok(Exit::of_health(!unheard))
        }
        PoolKeyCommand::Export { pool, file } => export(context, &pool, &file).await,
        PoolKeyCommand::Import { pool, file } => {
            let report = import(context, &pool, &file).await?;
            output::show(context.json, &report, || describe(&report))?;
            Ok(Exit::Ok)
        }
        PoolKeyCommand::Rotate { pool, lost_key, confirmation } => {
            let path = key_path(&pool)?;
            let known: Option<PoolKeyReport> = context.client.get(&path).await?;
            let what = match &known {
                Some(known) => format!(
                    "Pool {pool} would have another key than {}, of which copies are worth nothing then.\n",
                    known.key
                ),
                None => format!(
                    "Pool {pool} would have a key: its disks would obey this supervisor and those that are \
                     admitted, and no others.\n"
                ),
            };
            if !confirm(context, &what, confirmation)? {
                return Ok(Exit::Ok);
            }
            let request = RotateKey { lost_key };
            let report: PoolKeyReport =
                context.client.post(&format!("{path}/rotate"), &request).await?;
            output::show(context.json, &report, || describe(&report) + &keep(&pool))?;
            Ok(Exit::Ok)
        }
        PoolKeyCommand::Revoke { pool, supervisor, lost_key, confirmation } => {
            let path = format!("{}/revoke", key_path(&pool)?);
            let ask = RevokeSupervisor { supervisor, lost_key, dry_run: true };
            let _: PoolKeyReport = context.client.post(&path, &ask).await?;
            let what = format!(
                "The supervisor with the key {supervisor} could neither read nor write nor claim the disks of pool \
                 {pool} any more.\nThe pool would have another key: copies of the present one are worth nothing then.\n"
            );
            if !confirm(context, &what, confirmation)? {
                return Ok(Exit::Ok);
            }
            let request = RevokeSupervisor { supervisor, lost_key, dry_run: false };
            let report: PoolKeyReport = context.client.post(&path, &request).await?;
            output::show(context.json, &report, || describe(&report) + &keep(&pool))?;
            Ok(Exit::Ok)
        }
    }
}

/// `pool admit`.
pub async fn admit(context: &Context, args: AdmitArgs) -> Result<Exit, Failure> {
    let AdmitArgs { pool, supervisor, confirmation } = args;
    let path = format!("{}/admit", key_path(&pool)?);
    let ask = NamedSupervisor { supervisor, dry_run: true };
    let _: PoolKeyReport = context.client.post(&path, &ask).await?;
    let what = format!(
        "The supervisor with the key {supervisor} could import pool {pool}, and read and write its disks.\n"
    );
    if !confirm(context, &what, confirmation)? {
        return Ok(Exit::Ok);
    }
    let request = NamedSupervisor { supervisor, dry_run: false };
    let report: PoolKeyReport = context.client.post(&path, &request).await?;
    output::show(context.json, &report, || describe(&report))?;
    Ok(Exit::Ok)
}

/// Has the supervisor take a pool's key from a file.
pub async fn import(context: &Context, pool: &str, file: &Path) -> Result<PoolKeyReport, Failure> {
    let read = || -> std::io::Result<Zeroizing<String>> {
        let mut text = Zeroizing::new(String::new());
        File::open(file)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| {
        Failure::not_found(
            format!("{}: {error}", file.display()),
            "name the file that `etherpool pool key export` wrote",
        )
    })?;
    let secret = PoolKeySecret { secret: text.trim().to_owned() };
    Ok(context.client.post(&format!("{}/import", key_path(pool)?), &secret).await?)
}

async fn export(context: &Context, pool: &str, file: &Path) -> Result<Exit, Failure> {
    let path = format!("{}/export", key_path(pool)?);
    let failed = |error: std::io::Error| {
        let code = match error.kind() {
            std::io::ErrorKind::AlreadyExists => ErrorCode::Exists,
            std::io::ErrorKind::NotFound => ErrorCode::NotFound,
            _ => ErrorCode::Refused,
        };
        Failure::from(ApiError::new(code, format!("{}: {error}", file.display())))
            .remedy("name a file that isn't there yet, where you may write")
    };
    // Before the key is asked for: nothing of it is to be seen where it can't be kept.
    let new = File::options().write(true).create_new(true).mode(0o600).open(file);
    let mut new = new.map_err(failed)?;
    let exported: Result<PoolKeySecret, client::Error> = context.client.post(&path, &()).await;
    let written = match exported.map_err(Failure::from) {
        Ok(exported) => {
            let text = Zeroizing::new(format!("{}\n", exported.secret));
            new.write_all(text.as_bytes()).and_then(|()| new.sync_all()).map_err(failed)
        }
        Err(failure) => Err(failure),
    };
    if let Err(failure) = written {
        let _gone = std::fs::remove_file(file);
        return Err(failure);
    }
    let text = format!(
        "The key of pool {pool} is in {}. Whoever has it may have the pool: keep it where nobody else reads it.\n",
        file.display()
    );
    output::show(context.json, &file, || text)?;
    Ok(Exit::Ok)
}

fn key_path(pool: &str) -> Result<String, Failure> {
    Ok(format!("{}/key", pool_path(pool)?))
}

/// What is to be done about a new key.
pub fn keep(pool: &str) -> String {
    format!("Keep a copy of its key elsewhere: etherpool pool key export {pool} FILE\n")
}

fn describe(report: &PoolKeyReport) -> String {
    let mut text = format!("key         {}\nversion     {}\n", report.key, report.version);
    for supervisor in &report.supervisors {
        let here = if *supervisor == report.this_machine { "  (this machine)" } else { "" };
        text.push_str(&format!("supervisor  {supervisor}{here}\n"));
    }
    match &report.file {
        Some(file) => text.push_str(&format!("secret      {file}\n")),
        None => text.push_str("secret      not on this machine, which can let nobody in\n"),
    }
    for disk in &report.unheard {
        text.push_str(&format!(
            "unheard     {disk}: obeys whom it obeyed before, until it is back\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_shown_with_what_is_to_be_known() {
        let mut report = PoolKeyReport {
            key: seal::PoolKey([1; 32]),
            version: 3,
            supervisors: vec![PublicKey([2; 32]), PublicKey([3; 32])],
            this_machine: PublicKey([3; 32]),
            file: None,
            unheard: vec!["e1.0".into()],
        };
        assert_eq!(
            describe(&report),
            "key         AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\nversion     3\n\
             supervisor  AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n\
             supervisor  AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=  (this machine)\n\
             secret      not on this machine, which can let nobody in\n\
             unheard     e1.0: obeys whom it obeyed before, until it is back\n"
        );
        report.file = Some("/x".into());
        report.unheard.clear();
        assert!(describe(&report).ends_with("secret      /x\n"));
    }
}

//! `etherpool pool dump`: all that a pool's disks say, structure by structure, without a supervisor and without
//! a change. It is written as it is read, so that nothing of a large pool, or of a wreck, is kept.

use std::ops::ControlFlow;

use anyhow::Context as _;
use aoe_target::read_reservation;
use block::SECTOR_BYTES;
use clap::Args;
use control::exit::Exit;
use pool::check::{DiskImage, DumpItem, DumpOptions, Reservation, dump};

use super::pool_check::{Disk, no_such_pool, open_all, sort_out};
use super::{Failure, output};

/// Written at once.
const PIECE_BYTES: usize = 64 << 10;

/// Arguments of `pool dump`.
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// The pool's disks: paths of images or block devices on this machine, all of them if possible.
    /// With the name or id of a pool among them, only that pool is told of
    #[arg(required = true, value_name = "POOL|DISK")]
    disks: Vec<String>,

    /// Tell both slots of each checksum block, too: a line for each 4 MiB of a copy and more
    #[arg(long)]
    checksums: bool,
}

/// Runs it.
pub fn run(args: &DumpArgs, json: bool) -> Result<Exit, Failure> {
    let (paths, pool) = sort_out(&args.disks)?;
    let disks = open_all(&paths)?;
    let images: Vec<DiskImage<'_>> = disks.iter().map(Disk::image).collect();
    let options =
        DumpOptions { pool: pool.as_deref(), checksums: args.checksums, reservation: &reservation };
    for disk in disks.iter().filter(|disk| disk.in_use) {
        // What goes to standard output is for programs, too.
        eprintln!(
            "{}: a process of this machine uses it: what is read at different moments may not go together",
            output::plain(&disk.name)
        );
    }
    let mut writer = Writer { text: String::new(), json, failed: None };
    let told = dump(&images, &options, &mut |item| writer.take(&item));
    writer.finish()?;
    match pool.filter(|_| told == 0) {
        Some(pool) => Err(no_such_pool(&pool)),
        None => Ok(Exit::Ok),
    }
}

fn reservation(bytes: &[u8], slot: u32) -> Option<Reservation> {
    let record = read_reservation(bytes, slot)?;
    Some(Reservation {
        sequence: record.sequence,
        epoch: record.holder.epoch.0,
        owner: record.holder.owner.0,
        labelled_bytes: record.labelled_sectors.saturating_mul(SECTOR_BYTES as u64),
        clients: record.reserved.iter().map(ToString::to_string).collect(),
    })
}

/// Lines on their way to standard output.
struct Writer {
    text: String,
    json: bool,
    failed: Option<Failure>,
}

impl Writer {
    fn take(&mut self, item: &DumpItem) -> ControlFlow<()> {
        let line = match self.json {
            true => serde_json::to_string(item).context("a structure as JSON"),
            false => Ok(output::plain(&output::dumped(item))),
        };
        match line {
            Ok(line) => {
                self.text.push_str(&line);
                self.text.push('\n');
            }
            Err(error) => return self.stop(Some(error.into())),
        }
        if self.text.len() < PIECE_BYTES {
            return ControlFlow::Continue(());
        }
        match output::write(&std::mem::take(&mut self.text)) {
            Ok(true) => ControlFlow::Continue(()),
            // Nobody reads on.
            Ok(false) => self.stop(None),
            Err(failure) => self.stop(Some(failure)),
        }
    }

    fn stop(&mut self, failed: Option<Failure>) -> ControlFlow<()> {
        self.failed = failed;
        ControlFlow::Break(())
    }

    fn finish(self) -> Result<(), Failure> {
        match self.failed {
            Some(failure) => Err(failure),
            None => output::write(&self.text).map(drop),
        }
    }
}

//! Loads one AoE export and prints one line of JSON about it.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use aoe_wire::ShelfSlot;
use blackbox::frames::{self, Kind, LoadOptions, Order};
use clap::{Parser, ValueEnum};
use os::net::InterfaceSpec;

/// Keeps so many requests under way against one AoE export, and measures.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// Network namespace of the interface.
    #[arg(long)]
    netns: Option<String>,
    /// Interface that the export is reached by.
    #[arg(short, long)]
    interface: String,
    /// The export, for example e1.1.
    #[arg(long)]
    address: ShelfSlot,
    #[arg(long, value_enum, default_value_t = KindArg::Read)]
    kind: KindArg,
    /// Reads and writes, and compares: the same as --kind verify.
    #[arg(long)]
    verify: bool,
    /// Bytes per request.
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
    #[arg(long, value_enum, default_value_t = OrderArg::Random)]
    pattern: OrderArg,
    /// Where on the disk it begins, in bytes.
    #[arg(long, default_value_t = 0)]
    offset: u64,
    /// How much of the disk, in bytes.
    #[arg(long, default_value_t = 64 << 20)]
    range: u64,
    /// Requests under way.
    #[arg(long, default_value_t = 16)]
    depth: usize,
    /// How long is measured.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// How long before that.
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// The processor to run on.
    #[arg(long)]
    cpu: Option<usize>,
    /// Process of the target, for its processor time.
    #[arg(long)]
    pid: Option<u32>,
    /// Sleep while waiting for answers, instead of looking for them all the time.
    #[arg(long)]
    sleep: bool,
    /// For patterns and random order.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum KindArg {
    Read,
    Write,
    Verify,
}

#[derive(Clone, Copy, ValueEnum)]
enum OrderArg {
    Random,
    Sequential,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(cpu) = args.cpu {
        frames::pin_to(cpu)?;
    }
    let kind = match args.kind {
        _ if args.verify => Kind::Verify,
        KindArg::Read => Kind::Read,
        KindArg::Write => Kind::Write,
        KindArg::Verify => Kind::Verify,
    };
    let options = LoadOptions {
        interface: InterfaceSpec { name: args.interface, netns: args.netns },
        address: args.address,
        kind,
        bytes: args.bytes,
        order: match args.pattern {
            OrderArg::Random => Order::Random,
            OrderArg::Sequential => Order::Sequential,
        },
        offset_bytes: args.offset,
        range_bytes: args.range,
        depth: args.depth,
        measured: Duration::try_from_secs_f64(args.seconds)?,
        warm_up: Duration::try_from_secs_f64(args.warmup)?,
        pid: args.pid,
        seed: args.seed,
        sleep: args.sleep,
        retry: frames::RETRY,
        stop: None,
        verified_min: 0,
    };
    let report = frames::run(&options)?;
    println!("{}", serde_json::to_string(&report)?);
    anyhow::ensure!(report.corrupt == 0, "the export returned wrong data");
    Ok(())
}

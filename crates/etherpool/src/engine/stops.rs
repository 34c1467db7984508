//! Where tests have the whole process stand still (docs/engine.md, 21): the only way to kill a real supervisor between
//! two particular steps.

use std::cell::Cell;

use anyhow::Context;
use pool::{StopAt, StopPoint, Stops};
use rustix::process::{Signal, getpid, kill_process};

/// Which passing of which place: `PLACE` or `PLACE:N`.
const STOP_VARIABLE: &str = "ETHERPOOL_STOP_AT";

/// What the environment says; nearly always nothing.
pub fn from_environment() -> anyhow::Result<Stops> {
    let Some(text) = std::env::var_os(STOP_VARIABLE) else { return Ok(Stops::default()) };
    let at: StopAt = text.to_string_lossy().parse().context(STOP_VARIABLE)?;
    tracing::warn!(%at, "the engine is to stop there for ever, as {STOP_VARIABLE} says");
    let left = Cell::new(at);
    Ok(Stops::at(move |point| {
        let mut counted = left.get();
        let is_it = counted.is_reached(point);
        left.set(counted);
        is_it && stand_still(point)
    }))
}

/// Nothing more leaves the process, and nobody who waits for it is told that it is gone, until it is killed.
fn stand_still(point: StopPoint) -> bool {
    // Not by the log, whose thread may be stopped before it has it.
    eprintln!("stopped at {point}");
    if let Err(error) = kill_process(getpid(), Signal::STOP) {
        tracing::error!(%error, "only the event loop stops");
    }
    loop {
        // Another thread may be the first that takes the signal; and nobody continues this one.
        std::thread::park();
    }
}

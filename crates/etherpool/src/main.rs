//! The one binary of etherpool: arguments, then one match over what was asked for.

mod admin;
mod boot;
mod cli;
mod confinement;
mod engine;
mod ftp;
mod init;
mod json_lines;
mod keys;
mod local_users;
mod logging;
mod measure;
mod membership;
mod namespaces;
mod neighbours;
mod node;
mod running;
mod services;
mod supervisor;
mod target_command;
mod witnesses;

use std::process::ExitCode;

/// A request is some dozen allocations, mostly of futures too large for glibc's quick ways.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    confinement::begin();
    let called = target_command::called_as_vblade().or_else(init::called_as_init);
    called.unwrap_or_else(|| cli::main(cli::meant(std::env::args_os().collect())))
}

//! The one binary of etherpool: arguments, then one match over what was asked for.

mod admin;
mod cli;
mod client;
mod engine;
mod json_lines;
mod logging;
mod measure;
mod neighbours;
mod node;
mod running;
mod services;
mod supervisor;
mod target_command;

use std::process::ExitCode;

fn main() -> ExitCode {
    target_command::called_as_vblade().unwrap_or_else(cli::main)
}

//! The one binary of etherpool: arguments, then one match over what was asked for.

mod cli;
mod client;
mod engine;
mod lab;
mod logging;
mod measure;
mod node;
mod services;
mod supervisor;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}

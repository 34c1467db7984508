//! Running other programs: `ip`, and etherpool's own commands, as people do.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};
use control::exit::Exit;

use crate::place::Place;
use terminal::Slow;

/// Runs a program; its error output becomes ours when it fails.
pub fn run<A: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = A>,
) -> anyhow::Result<String> {
    let program = program.as_ref();
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("cannot run {}; is it installed?", program.display()))?;
    finished(&command, output)
}

/// Runs a program whose failure doesn't matter: removing what may be gone already.
pub fn try_run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> bool {
    run(program, args).is_ok()
}

/// This program.
pub fn own_program() -> anyhow::Result<PathBuf> {
    // After an upgrade the running file is "deleted"; its path is then still the right one to start.
    let path = std::env::current_exe()?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map(PathBuf::from).unwrap_or(path))
}

/// One of etherpool's commands, against the lab's supervisor.
pub fn etherpool<A: AsRef<OsStr>>(
    place: &Place,
    args: impl IntoIterator<Item = A>,
) -> anyhow::Result<String> {
    let (command, output) = run_etherpool(place, args)?;
    finished(&command, output)
}

/// The same, with JSON as answer. That what it shows isn't healthy is no failure of the question.
pub fn etherpool_json<A: AsRef<OsStr>>(
    place: &Place,
    args: impl IntoIterator<Item = A>,
) -> anyhow::Result<serde_json::Value> {
    let (command, output) = run_etherpool(place, args)?;
    let text = match output.status.code() == Some(i32::from(Exit::Degraded.code())) {
        true => String::from_utf8_lossy(&output.stdout).into_owned(),
        false => finished(&command, output)?,
    };
    serde_json::from_str(&text).with_context(|| format!("etherpool answered no JSON: {text}"))
}

fn run_etherpool<A: AsRef<OsStr>>(
    place: &Place,
    args: impl IntoIterator<Item = A>,
) -> anyhow::Result<(Command, Output)> {
    let mut command = Command::new(own_program()?);
    command.arg("--socket").arg(place.api_socket()).args(args).stdin(Stdio::null());
    // The command has time-outs of its own; until then people see what the lab is at.
    let _slow = Slow::begin(format!("`{}`", line_of(&command)), true);
    let output = command.output()?;
    Ok((command, output))
}

fn finished(command: &Command, output: Output) -> anyhow::Result<String> {
    if !output.status.success() {
        let line = line_of(command);
        bail!("`{line}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn line_of(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    words.join(" ")
}

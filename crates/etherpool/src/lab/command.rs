//! Running other programs: `ip`, and etherpool's own commands, as people do.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

use super::place::Place;

/// Runs a program; its error output becomes ours when it fails.
pub fn run<A: AsRef<OsStr>>(
    program: &str,
    args: impl IntoIterator<Item = A>,
) -> anyhow::Result<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let output =
        command.output().with_context(|| format!("cannot run {program}; is it installed?"))?;
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
    let mut command = Command::new(own_program()?);
    command.arg("--socket").arg(place.api_socket()).args(args).stdin(Stdio::null());
    let output = command.output()?;
    finished(&command, output)
}

/// The same, with JSON as answer.
pub fn etherpool_json<A: AsRef<OsStr>>(
    place: &Place,
    args: impl IntoIterator<Item = A>,
) -> anyhow::Result<serde_json::Value> {
    let text = etherpool(place, args)?;
    serde_json::from_str(&text).with_context(|| format!("etherpool answered no JSON: {text}"))
}

fn finished(command: &Command, output: Output) -> anyhow::Result<String> {
    if !output.status.success() {
        let words: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        bail!("`{}`: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

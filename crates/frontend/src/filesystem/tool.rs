//! Runs the system's tools: with a limit of time, no terminal, and what they said in the error.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::FilesystemError;

/// How much of a tool's output is kept: its end says what went wrong.
const OUTPUT_BYTES_MAX: usize = 8 << 10;

/// How a tool ended.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Exit code; `None` when killed by a signal.
    pub code: Option<i32>,
    /// The end of its output.
    pub output: String,
}

/// Runs `tool` to its end. `progress` gets its output piece by piece; lines may end with a return
/// or backspaces.
pub(super) async fn run(
    tool: &'static str,
    command: &mut Command,
    limit: Duration,
    mut progress: impl FnMut(&str),
) -> Result<Outcome, FilesystemError> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("LC_ALL", "C")
        .kill_on_drop(true)
        .spawn()
        .map_err(|_| FilesystemError::NoTool(tool))?;
    let mut stdout = child.stdout.take();
    let mut stderr = child.stderr.take();
    let mut said = Tail::default();
    let mut complained = Tail::default();
    let finished = tokio::time::timeout(limit, async {
        let (_, _, status) = tokio::join!(
            collect(stdout.as_mut(), &mut said, &mut progress),
            collect(stderr.as_mut(), &mut complained, |_| {}),
            child.wait(),
        );
        status
    })
    .await;
    let output = format!("{}{}", said.text(), complained.text()).trim().to_owned();
    match finished {
        Ok(Ok(status)) => Ok(Outcome { code: status.code(), output }),
        Ok(Err(error)) => Err(FilesystemError::system(format!("waiting for {tool}"), error)),
        // Dropping the child kills it; a tool that waits for a dead volume goes when that goes.
        Err(_) => Err(FilesystemError::Timeout { tool, limit_secs: limit.as_secs(), output }),
    }
}

/// Like [`run`], and anything but exit code 0 is an error.
pub(super) async fn run_well(
    tool: &'static str,
    command: &mut Command,
    limit: Duration,
    progress: impl FnMut(&str),
) -> Result<String, FilesystemError> {
    let outcome = run(tool, command, limit, progress).await?;
    if outcome.code == Some(0) {
        return Ok(outcome.output);
    }
    Err(failure(tool, outcome))
}

/// The error that `outcome` is.
pub(super) fn failure(tool: &'static str, outcome: Outcome) -> FilesystemError {
    let status = match outcome.code {
        Some(code) => format!("exit code {code}"),
        None => "killed".to_owned(),
    };
    FilesystemError::Tool { tool, status, output: outcome.output }
}

async fn collect(
    source: Option<&mut (impl AsyncRead + Unpin)>,
    tail: &mut Tail,
    mut progress: impl FnMut(&str),
) {
    let Some(source) = source else { return };
    let mut buffer = [0; 1024];
    while let Ok(count) = source.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        progress(&String::from_utf8_lossy(&buffer[..count]));
        tail.push(&buffer[..count]);
    }
}

/// The end of an output.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let excess = self.0.len().saturating_sub(OUTPUT_BYTES_MAX);
        self.0.drain(..excess);
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn output_and_exit_code_are_in_the_error() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo one; echo two >&2; exit 3"]);
        let error = run_well("sh", &mut shell, Duration::from_secs(60), |_| {}).await.unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit code 3): one\ntwo");
        let missing =
            run("none", &mut Command::new("/none"), Duration::from_secs(60), |_| {}).await;
        assert!(matches!(missing, Err(FilesystemError::NoTool("none"))));
    }

    #[tokio::test]
    async fn a_tool_that_does_not_end_is_killed() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo begun; exec tail -f /dev/null"]);
        let result = run("sh", &mut shell, Duration::from_millis(200), |_| {}).await;
        assert!(
            matches!(result, Err(FilesystemError::Timeout { output, .. }) if output == "begun")
        );
    }

    #[tokio::test]
    async fn long_output_is_cut_and_progress_sees_all() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "head -c 100000 /dev/zero | tr '\\0' x; echo end"]);
        let mut seen = 0;
        let output =
            run_well("sh", &mut shell, Duration::from_secs(60), |text| seen += text.len()).await;
        let output = output.unwrap();
        assert!(output.len() <= OUTPUT_BYTES_MAX && output.ends_with("xend"));
        assert_eq!(seen, 100_004);
    }
}

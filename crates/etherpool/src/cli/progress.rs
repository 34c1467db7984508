//! A bar for operations that take longer than two seconds, on a terminal only.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pool::Progress;

/// An operation shorter than this shows no bar.
const QUIET: Duration = Duration::from_secs(2);

/// Shows how far an operation is.
pub struct ProgressDisplay {
    begun: Instant,
    enabled: bool,
    title: &'static str,
    bar: Option<ProgressBar>,
}

impl ProgressDisplay {
    /// For an operation that begins now.
    pub fn new(title: &'static str, json: bool) -> ProgressDisplay {
        let enabled = !json && std::io::stderr().is_terminal();
        ProgressDisplay { begun: Instant::now(), enabled, title, bar: None }
    }

    /// Takes what the supervisor told.
    pub fn update(&mut self, progress: Progress) {
        if !self.enabled || self.begun.elapsed() < QUIET {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| new_bar(self.title, self.begun.elapsed()));
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes.min(progress.total_bytes));
    }
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(title: &'static str, elapsed: Duration) -> ProgressBar {
    let template = "{prefix} {wide_bar} {percent}% {binary_bytes_per_sec} {eta} left";
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_prefix(title);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_elapsed(elapsed)
}

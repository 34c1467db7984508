//! What people see of operations that take longer than two seconds on a terminal: how far it is. Elsewhere
//! a line says what an operation stands still for.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use terminal::{QUIET, SAY_AGAIN, WaitDisplay, is_seen};

use crate::client::News;

/// Shows how far an operation is.
pub struct ProgressDisplay {
    begun: Instant,
    enabled: bool,
    /// Without a terminal: what was said last of what is waited for; none where nobody reads it.
    said: Option<String>,
    title: &'static str,
    bar: Option<ProgressBar>,
    waiting: Option<WaitDisplay>,
}

impl ProgressDisplay {
    /// For an operation that begins now.
    pub fn new(title: &'static str, json: bool) -> ProgressDisplay {
        let enabled = is_seen(json);
        let said = (!json).then(String::new);
        ProgressDisplay { begun: Instant::now(), enabled, said, title, bar: None, waiting: None }
    }

    /// Takes what the supervisor told.
    pub fn update(&mut self, news: &News) {
        if !self.enabled {
            return self.say(news);
        }
        if self.begun.elapsed() < QUIET {
            return;
        }
        let progress = match news {
            News::Progress(progress) => progress,
            News::Waiting(what) => {
                let what = format!("{}: {what}", self.title);
                self.waiting.get_or_insert_with(|| WaitDisplay::new(&what)).update(&what);
                return;
            }
        };
        self.waiting = None;
        let bar = self.bar.get_or_insert_with(|| new_bar(self.title, self.begun.elapsed()));
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes.min(progress.total_bytes));
    }
}

impl ProgressDisplay {
    /// A line where nobody sees the time pass, once for each reason to wait: a script that stands still
    /// leaves in its log why.
    fn say(&mut self, news: &News) {
        let (News::Waiting(what), Some(said)) = (news, &mut self.said) else { return };
        if self.begun.elapsed() >= SAY_AGAIN && said != what {
            eprintln!("{}: waiting for {} s: {what}", self.title, self.begun.elapsed().as_secs());
            said.clone_from(what);
        }
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

//! What people see of operations that take longer than two seconds on a terminal: how far it is, or what
//! is waited for and since when. Elsewhere a line says what an operation stands still for.

use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::client::News;

/// Of an operation shorter than this nothing is shown.
pub const QUIET: Duration = Duration::from_secs(2);
/// How often the time that has passed is shown anew.
const TICK: Duration = Duration::from_millis(500);

/// Whether somebody sees it.
pub fn is_seen(json: bool) -> bool {
    !json && std::io::stderr().is_terminal()
}

/// Shows what is waited for and since when, until it is dropped.
pub struct WaitDisplay(ProgressBar);

impl WaitDisplay {
    /// For something that has been waited for a moment already.
    pub fn new(what: &str) -> WaitDisplay {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        let bar = bar.with_elapsed(QUIET);
        bar.enable_steady_tick(TICK);
        WaitDisplay(bar)
    }

    fn update(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }
}

impl Drop for WaitDisplay {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Says what is waited for, once it isn't a moment any more, until it is dropped: for those who wait
/// where nothing else can be done meanwhile.
pub struct Slow {
    _done: Sender<()>,
}

/// How often it is said again where nobody sees the time pass.
const SAY_AGAIN: Duration = Duration::from_secs(10);

impl Slow {
    /// Begins to wait. Without a terminal it is said in lines if `lines` is set, and else not at all.
    pub fn begin(what: impl Into<String>, lines: bool) -> Slow {
        let (what, (done, ended)) = (what.into(), channel::<()>());
        let over = move |limit| ended.recv_timeout(limit) != Err(RecvTimeoutError::Timeout);
        let say = move || {
            let begun = Instant::now();
            let mut pause = QUIET;
            let mut shown = None;
            while !over(pause) {
                if is_seen(false) {
                    shown.get_or_insert_with(|| WaitDisplay::new(&what));
                } else if lines {
                    eprintln!("waiting for {} s: {what}", begun.elapsed().as_secs());
                }
                pause = SAY_AGAIN;
            }
        };
        // Without a thread it is waited for in silence.
        let _ = std::thread::Builder::new().name("slow".to_owned()).spawn(say);
        Slow { _done: done }
    }
}

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

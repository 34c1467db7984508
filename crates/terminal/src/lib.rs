//! What people see of a wait that takes longer than two seconds: on a terminal what is waited for and
//! since when, elsewhere a line in the log.

use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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

    /// Something else is waited for now.
    pub fn update(&self, what: &str) {
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
pub const SAY_AGAIN: Duration = Duration::from_secs(10);

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

//! What is seen of operations that take longer than two seconds: on a terminal how far it is, elsewhere a line that says
//! what an operation stands still for, and for programs (`--json`) a JSON line on the standard error every second.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Aside, News};
use control::api::Asked;
use indicatif::{BinaryBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use pool::Progress;
use serde::Serialize;

use terminal::{QUIET, SAY_AGAIN, WaitDisplay, is_seen};

/// How often programs are told.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Over which time its rate is measured.
const RATE_OVER: Duration = Duration::from_secs(30);
/// How close to each other what it is measured by is.
const RATE_BY: Duration = Duration::from_millis(100);

/// Shows how far an operation is.
pub struct ProgressDisplay {
    title: &'static str,
    begun: Instant,
    lately: Lately,
    shown: Shown,
}

/// To whom it is shown.
enum Shown {
    Terminal {
        bar: Option<ProgressBar>,
        waiting: Option<WaitDisplay>,
    },
    /// A log, with what was said last of what is waited for.
    Log {
        said: String,
    },
    /// A program, with when it was told last.
    Program {
        told: Option<Instant>,
    },
}

/// Says on a terminal what a supervisor is waited for and since when, once it isn't a moment any more.
pub fn shown_aside() -> Aside {
    Arc::new(|asked: &Asked| {
        let what = format!("waiting for the supervisor: {}", asked.text);
        Box::pin(async move {
            tokio::time::sleep(QUIET).await;
            let _shown = WaitDisplay::new(&what);
            std::future::pending().await
        })
    })
}

/// What a program is told.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Line<'a> {
    Progress {
        /// What is done.
        operation: &'a str,
        #[serde(flatten)]
        progress: Progress,
        /// In the last half a minute; none before anything was done.
        bytes_per_sec: Option<u64>,
        /// At this rate.
        left_secs: Option<u64>,
    },
    Waiting {
        /// What is done.
        operation: &'a str,
        /// For what it waits.
        why: &'a str,
        /// Since the operation began.
        for_secs: u64,
    },
}

/// Says what isn't the result of a command, in whole lines; to programs in a line like those of progress.
pub fn remark_in_passing(json: bool, text: &str) {
    match json {
        true => eprintln!("{}", serde_json::json!({ "remark": text.trim_end() })),
        false => eprint!("{text}"),
    }
}

/// How far an operation was in the last half a minute.
#[derive(Default)]
struct Lately {
    total_bytes: u64,
    seen: VecDeque<(Instant, u64)>,
}

impl Lately {
    /// Bytes in a second. What becomes more or less to do begins anew: another part of it may have been done before.
    fn rate(&mut self, now: Instant, progress: Progress) -> Option<f64> {
        if self.total_bytes != progress.total_bytes {
            *self = Lately { total_bytes: progress.total_bytes, seen: VecDeque::new() };
        }
        while self.seen.front().is_some_and(|(at, _)| now - *at > RATE_OVER) {
            self.seen.pop_front();
        }
        if self.seen.back().is_none_or(|(at, _)| now - *at >= RATE_BY) {
            self.seen.push_back((now, progress.done_bytes));
        }
        let (since, first) = *self.seen.front()?;
        let (done, secs) = (progress.done_bytes.saturating_sub(first), (now - since).as_secs_f64());
        (done > 0 && secs > 0.0).then(|| done as f64 / secs)
    }
}

impl ProgressDisplay {
    /// For an operation that begins now.
    pub fn new(title: &'static str, json: bool) -> ProgressDisplay {
        let shown = match json {
            true => Shown::Program { told: None },
            false if is_seen(json) => Shown::Terminal { bar: None, waiting: None },
            false => Shown::Log { said: String::new() },
        };
        ProgressDisplay { title, begun: Instant::now(), lately: Lately::default(), shown }
    }

    /// Takes what the supervisor told.
    pub fn update(&mut self, news: &News) {
        let (title, now) = (self.title, Instant::now());
        let elapsed = now - self.begun;
        // Also before anybody is told: else all that was done by then would count as done in that moment.
        let rate = match news {
            News::Progress(progress) => self.lately.rate(now, *progress),
            News::Waiting(_) => {
                self.lately = Lately::default();
                None
            }
        };
        match (&mut self.shown, news) {
            // A script that stands still leaves in its log why, once for each reason.
            (Shown::Log { said }, News::Waiting(why)) => {
                if elapsed >= SAY_AGAIN && said != why {
                    eprintln!("{title}: waiting for {} s: {why}", elapsed.as_secs());
                    said.clone_from(why);
                }
            }
            (Shown::Log { .. }, News::Progress(_)) => {}
            (_, _) if elapsed < QUIET => {}
            (Shown::Program { told }, news) => {
                if told.is_some_and(|told| now - told < TELL_EVERY) {
                    return;
                }
                *told = Some(now);
                let line = line(title, elapsed, news, rate);
                eprintln!("{}", serde_json::to_string(&line).unwrap_or_default());
            }
            (Shown::Terminal { waiting, .. }, News::Waiting(why)) => {
                let why = format!("{title}: {why}");
                waiting.get_or_insert_with(|| WaitDisplay::new(&why)).update(&why);
            }
            (Shown::Terminal { bar, waiting }, News::Progress(progress)) => {
                *waiting = None;
                let bar = bar.get_or_insert_with(|| new_bar(title));
                bar.set_message(pace(*progress, rate));
                bar.set_length(progress.total_bytes);
                bar.set_position(progress.done_bytes.min(progress.total_bytes));
            }
        }
    }
}

/// What a program is told `elapsed` after the operation began.
fn line<'a>(operation: &'a str, elapsed: Duration, news: &'a News, rate: Option<f64>) -> Line<'a> {
    match news {
        News::Waiting(why) => Line::Waiting { operation, why, for_secs: elapsed.as_secs() },
        News::Progress(progress) => Line::Progress {
            operation,
            progress: *progress,
            bytes_per_sec: rate.map(|rate| rate as u64),
            left_secs: rate.map(|rate| left_secs(*progress, rate)),
        },
    }
}

fn left_secs(progress: Progress, rate: f64) -> u64 {
    let left = progress.total_bytes.saturating_sub(progress.done_bytes) as f64;
    (left / rate).ceil() as u64
}

/// The same for people.
fn pace(progress: Progress, rate: Option<f64>) -> String {
    let Some(rate) = rate else { return "unknown time left".to_owned() };
    let left = HumanDuration(Duration::from_secs(left_secs(progress, rate)));
    format!("{}/s {left:#} left", BinaryBytes(rate as u64))
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        if let Shown::Terminal { bar: Some(bar), .. } = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(title: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_prefix(title);
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {percent}% {msg}") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn programs_are_told_rate_and_time_left() {
        let begun = Instant::now();
        let (mut lately, second) = (Lately::default(), Duration::from_secs(1));
        let mut told = |secs, done_bytes| {
            let progress = Progress { done_bytes, total_bytes: 1000 };
            let rate = lately.rate(begun + second * secs, progress);
            let news = News::Progress(progress);
            let line = line("verify", second * secs, &news, rate);
            serde_json::to_value(&line).unwrap()["progress"].take()
        };
        let first = told(2, 100);
        assert_eq!((&first["operation"], &first["done_bytes"]), (&"verify".into(), &100.into()));
        assert!(first["bytes_per_sec"].is_null() && first["left_secs"].is_null(), "{first}");
        let later = told(6, 500);
        assert_eq!((&later["bytes_per_sec"], &later["left_secs"]), (&100.into(), &5.into()));
        assert_eq!(later["total_bytes"], 1000);
        // What was long ago says nothing of now.
        assert_eq!(told(100, 600)["bytes_per_sec"], serde_json::Value::Null);
        assert_eq!(told(110, 620)["bytes_per_sec"], 2);

        let why = News::Waiting("for e1.0".into());
        let line = serde_json::to_value(line("scrub", second * 3, &why, None)).unwrap();
        let said = serde_json::json!({"operation": "scrub", "why": "for e1.0", "for_secs": 3});
        assert_eq!(line["waiting"], said);
    }

    #[test]
    fn people_are_told_the_same() {
        let progress = Progress { done_bytes: 50 << 20, total_bytes: 150 << 20 };
        assert_eq!(pace(progress, None), "unknown time left");
        assert_eq!(pace(progress, Some(f64::from(25 << 20))), "25.00 MiB/s 4s left");
    }

    #[test]
    fn the_rate_counts_from_where_it_began_and_keeps_little() {
        let (begun, mut lately) = (Instant::now(), Lately::default());
        let mut rate = None;
        for tick in 0..10_000_u64 {
            let progress = Progress { done_bytes: tick * 10, total_bytes: 1 << 20 };
            rate = lately.rate(begun + Duration::from_millis(tick), progress);
        }
        assert_eq!(rate.map(f64::round), Some(10_000.0));
        assert!(lately.seen.len() <= 101, "{}", lately.seen.len());
    }
}

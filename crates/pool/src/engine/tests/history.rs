//! What happened, and who had what done, is in the pool.

use std::rc::Rc;
use std::time::Duration;

use super::super::testing::{Bench, Mode};
use crate::history::HistoryEntry;
use crate::report::PoolState;

impl Bench {
    fn history(&self) -> Vec<HistoryEntry> {
        self.engine.history("pool").unwrap()
    }

    fn knows(&self, event: &str, text: &str) -> usize {
        let history = self.history();
        let known = history.iter().filter(|one| one.event == event && one.text.contains(text));
        known.count()
    }
}

#[test]
fn what_was_done_is_known_after_a_crash_and_where_it_is_not_committed_yet() {
    let (bench, _volume) = Bench::mirrored(400);
    let tell = |what: &str| {
        bench.engine.tell_command("pool".into(), "root".into(), what.into(), "done".into());
    };
    tell("first");
    assert_eq!(bench.knows("command", "first"), 1, "at once");
    bench.pass(Duration::from_secs(15));
    tell("second");
    let bench = bench.crash_engine();
    bench.reopened();
    assert_eq!(bench.knows("command", "first"), 1);
    assert_eq!(bench.knows("command", "second"), 0, "so much is forgotten by a crash");
    assert_eq!(bench.knows("owned", "supervisor-1"), 2, "{:#?}", bench.history());
}

#[test]
fn a_disk_that_goes_is_known_with_the_states_of_the_pool() {
    let (bench, _volume) = Bench::mirrored(401);
    bench.pass(Duration::from_secs(25));
    bench.set_mode(1, Mode::Lost);
    bench.until(|report| report.state == PoolState::Degraded);
    bench.pass(Duration::from_secs(25));
    bench.set_mode(1, Mode::Well);
    bench.until(|report| report.state == PoolState::Online);
    bench.pass(Duration::from_secs(45));
    let states: Vec<String> = bench
        .history()
        .into_iter()
        .filter(|entry| entry.event == "pool-state")
        .map(|entry| entry.text)
        .collect();
    assert_eq!(states.first().map(String::as_str), Some("pool pool is online"), "{states:?}");
    assert!(states.contains(&"pool pool is degraded".to_owned()), "{states:?}");
}

#[test]
fn a_release_is_known_to_whoever_has_the_pool_then() {
    let (bench, _volume) = Bench::mirrored(402);
    bench.engine.tell_command("pool".into(), "root".into(), "release".into(), "begun".into());
    bench.release("pool");
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.import_pool("pool", Default::default()).await }).unwrap();
    assert_eq!(bench.knows("command", "release"), 1);
    assert_eq!(bench.knows("pool-state", "released"), 1, "{:#?}", bench.history());
    assert_eq!(bench.knows("owned", "nobody owned it"), 1, "{:#?}", bench.history());
}

//! Which plan the node process goes by: the last one, unless it ends by that before it serves. Then it goes by the last one
//! that it served by, so that a configuration that is wrong in a way that only its start shows takes no disks from who uses
//! them. It isn't wrong for ever: what it lacks (disks of an array, after a power cut) may come, and it is tried again. Pure.

use std::time::Duration;

use block::Instant;

use super::plan::{Change, Plan};

/// How long it goes by another plan before it tries the one that it couldn't start by. Each attempt takes its disks from who
/// uses them, for a moment: after the first one the pause is twice as long each time.
const PAUSE_FIRST: Duration = Duration::from_secs(60);
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// How long it waits for others once a disk has come.
const SETTLE: Duration = Duration::from_secs(5);
/// To which part a disk that comes shortens a pause: one that comes and goes all the time doesn't have it start all the time.
const SHORTENED: u32 = 4;

/// The plans of a node process.
#[derive(Default)]
pub struct Course {
    /// By which it runs, or starts next.
    plan: Option<Plan>,
    /// By which it was started last.
    started: Option<Plan>,
    /// By which it has served.
    served: Option<Plan>,
    /// By which it can't. Still there while that is tried again.
    refused: Option<Refused>,
}

/// What it can't serve by.
struct Refused {
    plan: Plan,
    /// What is told of it.
    why: String,
    /// When it last couldn't.
    since: Instant,
    /// How long after that it is tried again, unless a disk comes.
    pause: Duration,
    again_at: Instant,
}

impl Refused {
    fn is(&self, plan: &Plan) -> bool {
        plan.change_from(&self.plan) == Change::None
    }
}

impl Course {
    /// By which it goes; none if it isn't to run.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// Why it doesn't go by what it was told last.
    pub fn wrong(&self) -> Option<&str> {
        self.refused.as_ref().map(|refused| refused.why.as_str())
    }

    /// It is to go by this one from now on.
    pub fn follow(&mut self, plan: Plan) -> Change {
        if self.refused.as_ref().is_some_and(|refused| refused.is(&plan)) {
            return Change::None;
        }
        self.refused = None;
        let change = self.plan.as_ref().map_or(Change::Restart, |former| plan.change_from(former));
        self.plan = Some(plan);
        change
    }

    /// It isn't to run any more.
    pub fn stop(&mut self) {
        self.plan = None;
    }

    /// It is started.
    pub fn started(&mut self) {
        self.started.clone_from(&self.plan);
    }

    /// It serves.
    pub fn serves(&mut self) {
        self.served.clone_from(&self.started);
        let served = self.served.as_ref();
        self.refused =
            self.refused.take().filter(|refused| !served.is_some_and(|by| refused.is(by)));
    }

    /// A disk has come, for which what it can't serve by may have waited.
    pub fn disk_came(&mut self, now: Instant) {
        if let Some(refused) = &mut self.refused {
            let soon = (now + SETTLE).max(refused.since + refused.pause / SHORTENED);
            refused.again_at = refused.again_at.min(soon);
        }
    }

    /// Whether it is to start anew, by what it couldn't serve by before.
    pub fn tries_again(&mut self, now: Instant) -> bool {
        let (Some(plan), Some(refused)) = (&self.plan, &self.refused) else { return false };
        if refused.is(plan) || now < refused.again_at {
            return false;
        }
        self.plan = Some(refused.plan.clone());
        true
    }

    /// It ended before it served. Goes by another plan, if there is one that promises more.
    pub fn failed(&mut self, now: Instant, why: &str) {
        let (Some(plan), Some(started)) = (&self.plan, &self.started) else { return };
        // It was told something else since then.
        if plan.change_from(started) != Change::None {
            return;
        }
        let is_other = |other: &Plan| plan.change_from(other) != Change::None;
        // What it has served by it will serve by again.
        if self.served.as_ref().is_some_and(|served| !is_other(served)) {
            return;
        }
        let served = self.served.as_ref();
        // Who has been accepted isn't a stranger again as long as there is another way.
        let own = served.filter(|served| served.is_accepted || !plan.is_accepted);
        let bare = Some(plan.without_configuration()).filter(|bare| is_other(bare));
        let Some(next) = own.cloned().or(bare).or(served.cloned()) else { return };
        let with = if next.is_bare { "without any" } else { "with the former" };
        let why = format!("{why} before it served by its configuration, and goes on {with}");
        let refused = match self.refused.take() {
            // What is told is about what the boot server said, not about what took its place.
            Some(refused) if !refused.is(plan) => refused,
            former => {
                let pause = former.map_or(PAUSE_FIRST, |former| (former.pause * 2).min(PAUSE_MAX));
                Refused { plan: plan.clone(), why, since: now, pause, again_at: now + pause }
            }
        };
        self.refused = Some(refused);
        self.plan = Some(next);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use aoe_wire::MacAddr;
    use boot::node::{Answer, Slots, State, VERSION};
    use seal::{KeyPair, SecretKey};

    use super::super::identity::Heard;
    use super::super::plan::{Machine, Said};
    use super::*;

    fn plan(state: State, configuration: &str) -> Plan {
        let mac = MacAddr([2, 0, 0, 0, 0, 7]);
        let key = KeyPair::of(SecretKey::new([1; 32])).unwrap();
        let machine = Machine { uuid: None, mac, macs: vec![mac], key, shown: None };
        let answer = Answer {
            version: VERSION,
            state,
            name: Some("node-7".into()),
            shelf: Some(7),
            configuration: Some(configuration.into()),
            supervisors: Vec::new(),
            slots: Slots::new(),
            identity: None,
        };
        let mut said = Said::default();
        said.hear(&machine, &Heard::plain(&answer));
        said.plan(&machine)
    }

    fn goes_by(course: &Course, plan: &Plan) -> bool {
        course.plan().unwrap().change_from(plan) == Change::None
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(0) + Duration::from_secs(seconds)
    }

    /// A course that can't start by the plan, and goes by another since then.
    fn refusing(plan: &Plan, now: Instant) -> Course {
        let mut course = Course::default();
        course.follow(plan.clone());
        course.started();
        course.failed(now, "the node ended with code 1");
        assert!(!goes_by(&course, plan));
        course.started();
        course.serves();
        course
    }

    #[test]
    fn what_it_cannot_start_by_is_tried_again_with_pauses_that_grow() {
        let plan = plan(State::Accepted, "before-start = ['mdadm --assemble']");
        let (mut now, mut pause) = (10, 60);
        let mut course = refusing(&plan, at(now));
        for _ in 0..10 {
            now += pause;
            assert!(!course.tries_again(at(now - 1)));
            assert!(course.tries_again(at(now)) && goes_by(&course, &plan));
            // Once; and what the boot server goes on saying changes nothing meanwhile.
            assert!(!course.tries_again(at(now)));
            assert_eq!(course.follow(plan.clone()), Change::None);
            // The end of what ran before says nothing of it.
            course.failed(at(now), "the node ended with code 0");
            assert!(goes_by(&course, &plan) && course.wrong().is_some());
            course.started();
            now += 1;
            course.failed(at(now), "the node ended with code 2");
            assert!(goes_by(&course, &plan.without_configuration()));
            assert!(course.wrong().unwrap().contains("code 2"));
            course.started();
            course.serves();
            assert!(course.wrong().is_some(), "it doesn't serve by what it was told");
            pause = (pause * 2).min(3600);
        }
        assert_eq!(pause, 3600);
        assert!(course.tries_again(at(now + pause)));
        course.started();
        course.serves();
        assert!(goes_by(&course, &plan) && course.wrong().is_none());
        // By now it has served by it.
        course.started();
        course.failed(at(now), "the node ended with code 1");
        assert!(goes_by(&course, &plan) && !course.tries_again(at(1_000_000)));
    }

    #[test]
    fn a_disk_that_comes_has_it_try_again_soon_but_not_all_the_time() {
        let plan = plan(State::Accepted, "before-start = ['mdadm --assemble']");
        let mut course = Course::default();
        course.disk_came(at(0));
        assert!(!course.tries_again(at(1000)));
        course = refusing(&plan, at(10));
        course.disk_came(at(30));
        // Not later for each of the others.
        course.disk_came(at(34));
        assert!(!course.tries_again(at(34)) && course.tries_again(at(35)));
        course.started();
        // Its own commands may bring some: they are no reason to try it once more.
        course.disk_came(at(36));
        course.failed(at(40), "the node ended with code 1");
        let mut tries = 0;
        for now in 40..3640 {
            course.disk_came(at(now));
            if course.tries_again(at(now)) {
                tries += 1;
                course.started();
                course.failed(at(now), "the node ended with code 1");
            }
        }
        assert!((5..10).contains(&tries), "{tries}");
        // Something else takes its place at once.
        let other = self::plan(State::Accepted, "io = 'direct'");
        course.follow(other.clone());
        course.disk_came(at(4000));
        assert!(goes_by(&course, &other) && !course.tries_again(at(9000)));
    }

    #[test]
    fn what_it_cannot_start_by_gives_way_to_what_it_served_by() {
        let good = plan(State::Accepted, "io = 'direct'");
        let wrong = plan(State::Accepted, "before-start = ['false']");
        let mut course = Course::default();
        assert_eq!(course.follow(good.clone()), Change::Restart);
        course.started();
        course.serves();
        // It served by this: however often it ends, it is started by it again.
        course.started();
        course.failed(at(0), "it ended");
        assert!(goes_by(&course, &good) && course.wrong().is_none());
        assert_eq!(course.follow(wrong.clone()), Change::Restart);
        // The end of the former says nothing of this one.
        course.failed(at(0), "it ended");
        assert!(goes_by(&course, &wrong) && course.wrong().is_none());
        course.started();
        course.failed(at(0), "the node ended with code 1");
        assert!(goes_by(&course, &good));
        assert!(course.wrong().unwrap().starts_with("the node ended with code 1 before"));
        // Told once more, it isn't tried for that; something else is.
        assert_eq!(course.follow(wrong), Change::None);
        assert!(goes_by(&course, &good) && course.wrong().is_some());
        let other = plan(State::Accepted, "io = 'buffered'");
        assert_eq!(course.follow(other.clone()), Change::Reload);
        assert!(goes_by(&course, &other) && course.wrong().is_none());
    }

    #[test]
    fn who_has_served_by_nothing_serves_without_its_configuration() {
        let stranger = plan(State::Pending, "");
        let wrong = plan(State::Accepted, "before-start = ['false']");
        let mut course = Course::default();
        course.follow(stranger.clone());
        course.started();
        course.serves();
        course.follow(wrong.clone());
        course.started();
        course.failed(at(0), "it ended");
        assert!(goes_by(&course, &wrong.without_configuration()));
        assert!(course.plan().unwrap().is_accepted && course.wrong().is_some());
        // When even that doesn't help, it is what it was; and what is told stays.
        let told = course.wrong().unwrap().to_owned();
        course.started();
        course.failed(at(0), "it ended again");
        assert!(goes_by(&course, &stranger));
        assert_eq!(course.wrong(), Some(told.as_str()));
        course.stop();
        course.failed(at(0), "it ended with the machine");
        assert!(course.plan().is_none());
    }
}

//! Which plan the node process goes by: the last one, unless it ends by that before it serves. Then it goes by the last one
//! that it served by, so that a configuration that is wrong in a way that only its start shows takes no disks from who uses
//! them. Pure.

use super::plan::{Change, Plan};

/// The plans of a node process.
#[derive(Default)]
pub struct Course {
    /// By which it runs, or starts next.
    plan: Option<Plan>,
    /// By which it was started last.
    started: Option<Plan>,
    /// By which it has served.
    served: Option<Plan>,
    /// By which it can't, with what is told of it.
    refused: Option<(Plan, String)>,
}

impl Course {
    /// By which it goes; none if it isn't to run.
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// Why it doesn't go by what it was told last.
    pub fn wrong(&self) -> Option<&str> {
        self.refused.as_ref().map(|(_, why)| why.as_str())
    }

    /// It is to go by this one from now on.
    pub fn follow(&mut self, plan: Plan) -> Change {
        let is_refused = |(refused, _): &(Plan, String)| plan.change_from(refused) == Change::None;
        if self.refused.as_ref().is_some_and(is_refused) {
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
    }

    /// It ended before it served. Goes by another plan, if there is one that promises more.
    pub fn failed(&mut self, why: &str) {
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
        // What is told is about what the boot server said, not about what took its place.
        let refused = self.refused.take().unwrap_or_else(|| (plan.clone(), why));
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
        course.failed("it ended");
        assert!(goes_by(&course, &good) && course.wrong().is_none());
        assert_eq!(course.follow(wrong.clone()), Change::Restart);
        // The end of the former says nothing of this one.
        course.failed("it ended");
        assert!(goes_by(&course, &wrong) && course.wrong().is_none());
        course.started();
        course.failed("the node ended with code 1");
        assert!(goes_by(&course, &good));
        assert!(course.wrong().unwrap().starts_with("the node ended with code 1 before"));
        // Told once more, it is tried no more; something else is.
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
        course.failed("it ended");
        assert!(goes_by(&course, &wrong.without_configuration()));
        assert!(course.plan().unwrap().is_accepted && course.wrong().is_some());
        // When even that doesn't help, it is what it was; and what is told stays.
        let told = course.wrong().unwrap().to_owned();
        course.started();
        course.failed("it ended again");
        assert!(goes_by(&course, &stranger));
        assert_eq!(course.wrong(), Some(told.as_str()));
        course.stop();
        course.failed("it ended with the machine");
        assert!(course.plan().is_none());
    }
}

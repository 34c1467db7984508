#![allow(clippy::unwrap_used)]
use pool::{
    DiskState, JobReport, JobState, OfflineReport, PoolDisk, PoolEvent, PoolReport, PoolState,
    ScrubReport, VolumeReport, VolumeState, VotesReport,
};

use super::*;

fn condition(kind: Kind, severity: Severity) -> Condition {
    Condition {
        kind,
        pool: Some("tank".into()),
        subject: "e1.0".into(),
        severity,
        text: "it is wrong".into(),
        remedy: "mend it".into(),
    }
}

/// Steps every five seconds; what was told, and when.
struct Story {
    alerts: Alerts,
    now: u64,
    told: Vec<(u64, Step)>,
}

impl Story {
    fn new() -> Story {
        Story { alerts: Alerts::default(), now: 1_000_000, told: Vec::new() }
    }

    fn run(&mut self, secs: u64, wrong: Option<Condition>) {
        for _ in 0..secs / 5 {
            self.now += 5;
            let told = self.alerts.step(self.now, wrong.iter().cloned().collect(), |_| true);
            self.told.extend(told.iter().map(|message| (message.at_secs, message.step)));
        }
    }

    fn steps(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.told).into_iter().map(|(_, step)| step).collect()
    }
}

#[test]
fn it_is_told_once_then_every_day_and_when_it_is_over() {
    let mut story = Story::new();
    let gone = || Some(condition(Kind::DiskGone, Severity::Warning));
    story.run(25, gone());
    assert_eq!(story.steps(), [], "what passes by itself is nobody's concern");
    story.run(600, gone());
    assert_eq!(story.steps(), [Step::Raised]);
    assert_eq!(story.alerts.raised().len(), 1);
    story.run(3 * 24 * 3600, gone());
    assert_eq!(story.steps(), [Step::Repeated; 3]);
    story.run(50, None);
    assert_eq!(story.steps(), [], "it may come back");
    story.run(20, None);
    assert_eq!(story.steps(), [Step::Cleared]);
    assert!(story.alerts.raised().is_empty());
    story.run(2 * 3600, None);
    assert_eq!(story.alerts, Alerts::default(), "nothing is kept of it");
}

#[test]
fn what_passes_before_it_was_told_is_never_told() {
    let mut story = Story::new();
    for _ in 0..50 {
        story.run(20, Some(condition(Kind::DiskGone, Severity::Warning)));
        story.run(10, None);
    }
    assert_eq!(story.steps(), []);
}

#[test]
fn what_flaps_is_told_ever_more_seldom() {
    let mut story = Story::new();
    let day = 24 * 3600;
    let begun = story.now;
    while story.now < begun + day {
        story.run(45, Some(condition(Kind::DiskGone, Severity::Warning)));
        story.run(75, None);
    }
    let told = story.steps();
    assert!(told.len() < 30, "{} messages in a day", told.len());
    assert!(told.contains(&Step::Raised));
    // It is stable at last.
    story.run(CLEAR_SECS_MAX + 10, None);
    assert_eq!(story.alerts.raised(), Vec::<&Alert>::new());
}

#[test]
fn what_gets_worse_is_told_at_once_and_what_gets_better_is_not() {
    let mut story = Story::new();
    story.run(60, Some(condition(Kind::PoolSpace, Severity::Warning)));
    story.run(60, Some(condition(Kind::PoolSpace, Severity::Error)));
    story.run(60, Some(condition(Kind::PoolSpace, Severity::Warning)));
    story.run(60, Some(condition(Kind::PoolSpace, Severity::Error)));
    assert_eq!(story.steps(), [Step::Raised, Step::Worse]);
}

#[test]
fn what_is_not_known_stays_as_it_was() {
    let mut story = Story::new();
    story.run(60, Some(condition(Kind::DiskGone, Severity::Warning)));
    story.steps();
    for _ in 0..1000 {
        story.now += 5;
        let told = story.alerts.step(story.now, Vec::new(), |kind| !kind.is_of_pool());
        assert_eq!(told, []);
    }
    assert_eq!(story.alerts.raised().len(), 1);
    story.run(65, None);
    assert_eq!(story.steps(), [Step::Cleared]);
}

#[test]
fn a_clock_that_is_set_back_keeps_nothing_for_ever() {
    let mut story = Story::new();
    story.run(60, Some(condition(Kind::DiskGone, Severity::Warning)));
    story.now -= 500_000;
    story.run(120, None);
    assert_eq!(story.steps(), [Step::Raised, Step::Cleared]);
}

#[test]
fn there_are_never_more_than_can_be_kept() {
    let mut alerts = Alerts::default();
    let many = (0..2000).map(|n| Condition {
        subject: n.to_string(),
        ..condition(Kind::DiskErrors, Severity::Warning)
    });
    let told = alerts.step(5, many.collect(), |_| true);
    assert_eq!(told.len(), ALERTS_MAX);
    assert!(alerts.is_overflown());
    let text = serde_json::to_string(&alerts).unwrap();
    let read: Alerts = serde_json::from_str(&text).unwrap();
    assert_eq!(read.raised(), alerts.raised(), "they are the same after a restart");
}

fn disk(name: &str) -> PoolDisk {
    PoolDisk {
        name: name.into(),
        id: name.into(),
        node: "n1".into(),
        node_key: None,
        device_name: "/dev/sda".into(),
        size_bytes: 1 << 30,
        free_bytes: 1 << 29,
        state: DiskState::Usable,
        dirty_bytes: 0,
        checksum_errors: 0,
        holds_vote: true,
        is_witness: false,
        rebuild_waits: None,
        offline: None,
        labels: Default::default(),
        serial: String::new(),
        last_seen_secs: None,
        health: None,
    }
}

fn volume() -> VolumeReport {
    VolumeReport {
        name: "v".into(),
        id: "1".into(),
        layout: "mirror:3".into(),
        converting_to: None,
        size_bytes: 1 << 29,
        properties: Default::default(),
        state: VolumeState::Online,
        degraded: false,
        dirty_bytes: 0,
        read_bytes: 0,
        written_bytes: 0,
        resynced_bytes: 0,
        repaired_blocks: 0,
        log_bytes: 0,
        log_capacity_bytes: 1000,
        survives_disks: 2,
        survives_nodes: 2,
        survives_labels: Default::default(),
        shared_groups: 0,
        replayed: Default::default(),
        replaying: None,
    }
}

fn pool() -> PoolReport {
    PoolReport {
        name: "tank".into(),
        id: "7".into(),
        state: PoolState::Online,
        owner: "host".into(),
        epoch: 1,
        read_only: false,
        stale_secs: None,
        capacity_bytes: 1000,
        free_bytes: 500,
        survives: 2,
        disks: ["e1.0", "e2.0", "e3.0"].map(disk).to_vec(),
        votes: VotesReport { total: 3, present: 3, lacks_witness: false },
        lease_ok: true,
        ours: true,
        volumes: vec![volume()],
        jobs: Vec::new(),
        scrub: Some(ScrubReport::default()),
        spare: None,
        grant: None,
    }
}

/// Of the 1000 bytes of the pool 400 are kept, so 100 of 600 are free.
fn spare(lacks_bytes: u64) -> pool::SpareReport {
    let lacks = (lacks_bytes > 0).then(|| "if e1.0 were lost".to_owned());
    pool::SpareReport {
        keeps: pool::Spare::Node,
        kept_bytes: 400,
        left_bytes: 100,
        lacks_bytes,
        lacks,
    }
}

fn wrong(pools: Option<&[PoolReport]>) -> Vec<(Kind, Severity)> {
    found(pools).into_iter().map(|found| (found.kind, found.severity)).collect()
}

fn found(pools: Option<&[PoolReport]>) -> Vec<Condition> {
    let process = crate::api::ProcessState::default();
    let found = conditions(&Seen {
        now_secs: 100 * 24 * 3600,
        pools,
        known_pools: &[("7".into(), "tank".into())],
        process: Some(&process),
        services: &[],
        troubles: &[],
        slow: &[],
    });
    for condition in &found {
        assert!(!condition.text.is_empty() && !condition.remedy.is_empty(), "{condition:?}");
    }
    found
}

#[test]
fn a_dead_disk_that_has_nothing_any_more_is_to_be_struck_off() {
    let mut pool = pool();
    pool.disks[0].state = DiskState::Missing;
    let name = pool.disks[0].name.clone();
    let remedy = |pool: &PoolReport| found(Some(std::slice::from_ref(pool)))[0].remedy.clone();
    assert!(remedy(&pool).contains("etherpool pool replace"), "{}", remedy(&pool));
    let job = |state| JobReport {
        number: 1,
        kind: "replace".into(),
        disk: name.clone(),
        volume: None,
        to: Some("e9.0".into()),
        total_bytes: 1,
        left_bytes: 0,
        state,
    };
    pool.jobs = vec![job(JobState::Running)];
    assert!(remedy(&pool).contains("etherpool pool replace"), "{}", remedy(&pool));
    pool.jobs = vec![job(JobState::Done)];
    let expected = format!("etherpool pool remove {} {name}", pool.name);
    assert!(remedy(&pool).ends_with(&expected), "{}", remedy(&pool));
}

#[test]
fn a_disk_that_was_never_seen_here_can_be_named() {
    let mut pool = pool();
    pool.disks[0].state = DiskState::Missing;
    pool.disks[0].name = "disk 0 of one".into();
    let gone = found(Some(&[pool])).remove(0);
    assert!(gone.text.starts_with("pool tank: disk 0 of one ("), "{}", gone.text);
    assert!(gone.remedy.ends_with("pool replace tank 'disk 0 of one' NEW"), "{}", gone.remedy);
}

#[test]
fn what_a_volume_survives_is_a_sentence() {
    let text = |disks, machines| {
        let mut pool = pool();
        (pool.volumes[0].survives_disks, pool.volumes[0].survives_nodes) = (disks, machines);
        found(Some(&[pool]))[0].text.clone()
    };
    assert!(text(0, 0).ends_with("survives no further failure of disks or machines now"));
    assert!(text(1, 0).ends_with("survives 1 further failure of disks and none of machines now"));
    assert!(text(1, 1).ends_with("survives 1 further failure of disks and 1 of machines now"));
}

#[test]
fn each_thing_that_is_wrong_is_a_condition() {
    use Severity::{Error, Warning};
    type Change = fn(&mut PoolReport);
    assert_eq!(wrong(Some(&[pool()])), []);
    assert_eq!(wrong(Some(&[])), [(Kind::PoolNotOpen, Error)], "it isn't there at all");
    assert_eq!(wrong(None), [(Kind::EngineDown, Error)], "nobody knows, and that is wrong");
    let cases: [(Change, &[(Kind, Severity)]); 18] = [
        (
            |p| {
                p.state = PoolState::Incomplete { why: "x".into() };
                p.ours = false;
            },
            &[],
        ),
        (|p| p.state = PoolState::Degraded, &[(Kind::PoolDegraded, Warning)]),
        (|p| p.state = PoolState::Suspended { why: "x".into() }, &[(Kind::PoolSuspended, Error)]),
        (|p| p.state = PoolState::Incomplete { why: "x".into() }, &[(Kind::PoolNotOpen, Error)]),
        (|p| p.state = PoolState::Fenced, &[(Kind::PoolTaken, Error)]),
        (|p| p.state = PoolState::Foreign, &[(Kind::PoolTaken, Error)]),
        (|p| p.votes.present = 2, &[(Kind::PoolVotes, Warning)]),
        (|p| p.free_bytes = 200, &[(Kind::PoolSpace, Warning)]),
        (|p| p.free_bytes = 99, &[(Kind::PoolSpace, Error)]),
        (|p| p.spare = Some(spare(0)), &[(Kind::PoolSpace, Warning)]),
        (|p| p.spare = Some(spare(7)), &[(Kind::PoolSpare, Warning)]),
        (|p| p.disks[0].state = DiskState::Missing, &[(Kind::DiskGone, Warning)]),
        (
            |p| p.disks[1].state = DiskState::Refused { why: "a copy".into() },
            &[(Kind::DiskRefused, Warning)],
        ),
        (
            |p| {
                p.disks[0].state = DiskState::Offline;
                p.disks[0].offline = Some(OfflineReport { since_secs: 60, waits: None });
            },
            &[(Kind::DiskOffline, Warning)],
        ),
        (|p| p.disks[1].state = DiskState::RolledBack, &[(Kind::DiskRolledBack, Warning)]),
        (|p| p.volumes[0].survives_disks = 1, &[(Kind::VolumeRedundancy, Warning)]),
        (|p| p.volumes[0].survives_disks = 0, &[(Kind::VolumeRedundancy, Error)]),
        (|p| p.volumes[0].log_bytes = 950, &[(Kind::LogSpace, Error)]),
    ];
    for (change, expected) in cases {
        let mut changed = pool();
        change(&mut changed);
        assert_eq!(wrong(Some(&[changed.clone()])), expected, "{changed:?}");
    }
    let mut late = pool();
    late.scrub = Some(ScrubReport { next_secs: Some(92 * 24 * 3600), ..Default::default() });
    assert_eq!(wrong(Some(&[late.clone()])), [(Kind::ScrubOverdue, Warning)]);
    late.scrub = Some(ScrubReport {
        ended_secs: Some(1),
        bad_blocks: 3,
        repaired_blocks: 2,
        ..Default::default()
    });
    assert_eq!(wrong(Some(&[late])), [(Kind::ScrubDamage, Error)]);
}

#[test]
fn a_layout_that_changes_promises_the_fewer_copies() {
    let wrong = |from: &str, to: &str, survives: u32| {
        let mut changed = pool();
        let volume = &mut changed.volumes[0];
        (volume.layout, volume.converting_to) = (from.into(), Some(to.into()));
        volume.survives_disks = survives;
        wrong(Some(&[changed]))
    };
    assert_eq!(wrong("mirror:3", "mirror:2", 1), []);
    assert_eq!(wrong("mirror:2", "mirror:3", 1), []);
    assert_eq!(wrong("raid0", "mirror:2", 0), []);
    assert_eq!(wrong("mirror:2", "raid0", 0), []);
    let lacks = [(Kind::VolumeRedundancy, Severity::Error)];
    assert_eq!(wrong("mirror:3", "mirror:2", 0), lacks);
    assert_eq!(wrong("mirror:2", "mirror:3", 0), lacks);
    // It is taken back, and some groups haven't all copies again.
    assert_eq!(wrong("mirror:2", "mirror:2", 0), lacks);
}

#[test]
fn errors_of_a_disk_are_counted_and_told_for_a_day() {
    let mut incidents = Incidents::default();
    let mut pools = [pool()];
    incidents.note_reports(&pools, 10);
    assert_eq!(incidents.conditions(10), []);
    pools[0].disks[0].checksum_errors = 2;
    incidents.note_reports(&pools, 20);
    pools[0].disks[0].checksum_errors = 5;
    incidents.note_reports(&pools, 30);
    // The pool was opened anew.
    pools[0].disks[0].checksum_errors = 1;
    incidents.note_reports(&pools, 40);
    let found = incidents.conditions(50);
    assert_eq!(found.len(), 1);
    assert!(found[0].text.contains("(6 times)"), "{}", found[0].text);
    assert_eq!(incidents.conditions(40 + 24 * 3600), []);
}

#[test]
fn lost_blocks_are_one_alert_however_often_they_are_read() {
    let mut alerts = Alerts::default();
    let mut told = 0;
    for n in 0..10_000 {
        let lost = PoolEvent::Unrepairable {
            pool: "tank".into(),
            volume: "v".into(),
            offset_bytes: n * 4096,
            length_bytes: 4096,
            disks: vec!["e1.0".into()],
        };
        alerts.incidents.note_event(&lost, 100 + n);
        told += alerts.step(100 + n, Vec::new(), |_| true).len();
    }
    assert_eq!(told, 1);
    assert!(alerts.raised()[0].condition.text.contains("(10000 times)"));
}

#[test]
fn mails_say_the_worst_first_and_no_more_than_fits() {
    let mut alerts = Alerts::default();
    let bad = Condition {
        text: "x\r\nBcc: a".repeat(40),
        ..condition(Kind::LostBlocks, Severity::Error)
    };
    let messages =
        alerts.step(1_000_000, vec![condition(Kind::DiskErrors, Severity::Warning), bad], |_| true);
    let batch = Batch { host: "h".into(), messages, lost: 2 };
    let subject = mail_subject(&batch);
    assert!(subject.starts_with("etherpool on h: error: x"), "{subject}");
    assert!(subject.ends_with("(and 1 more)") && !subject.contains(['\r', '\n']), "{subject}");
    let text = text_of(&batch);
    assert!(text.contains("    mend it\n") && text.contains("2 more messages were lost"), "{text}");
}

fn damaged() -> pool::ScrubReport {
    pool::ScrubReport {
        begun_secs: Some(1),
        ended_secs: Some(2),
        next_secs: None,
        blocks: 9,
        bad_blocks: 1,
        repaired_blocks: 0,
        unread_blocks: 0,
    }
}

/// What is wrong, as status says it.
fn asked(alerts: &Alerts, now_secs: u64, pools: Option<&[PoolReport]>) -> Vec<Wrong> {
    let process = crate::api::ProcessState::default();
    let found = conditions(&Seen {
        now_secs,
        pools,
        known_pools: &[],
        process: Some(&process),
        services: &[],
        troubles: &[],
        slow: &[],
    });
    let wrong = alerts.wrong(now_secs, found, pools);
    for one in &wrong {
        let is_whole = !one.text.is_empty() && !one.data.is_empty() && !one.remedy.is_empty();
        assert!(is_whole && one.since_secs <= now_secs, "{one:?}");
    }
    wrong
}

#[test]
fn who_asks_is_told_at_once_and_since_when() {
    let mut alerts = Alerts::default();
    let mut changed = pool();
    assert_eq!(asked(&alerts, 1000, Some(&[changed.clone()])), []);
    changed.disks[0].state = DiskState::Missing;
    let told = asked(&alerts, 1000, Some(&[changed.clone()]));
    assert_eq!(told.len(), 1, "nobody was told yet: {told:?}");
    assert_eq!((told[0].kind.as_str(), told[0].since_secs), ("disk-gone", 1000));
    assert!(told[0].may_pass, "{told:?}");
    let found = || vec![condition(Kind::DiskGone, Severity::Warning)];
    assert_eq!(alerts.step(1000, found(), |_| true), [], "it may pass");
    let pools = [changed.clone()];
    assert_eq!(asked(&alerts, 1020, Some(&pools))[0].since_secs, 1000, "who looks knows it");
    changed.disks[0].last_seen_secs = Some(400);
    let pools = [changed.clone()];
    assert_eq!(asked(&alerts, 1020, Some(&pools))[0].since_secs, 400, "the pool knows it better");
    assert_eq!(alerts.step(1029, found(), |_| true), []);
    assert!(asked(&alerts, 1029, Some(&pools))[0].may_pass);
    assert_eq!(alerts.step(1030, found(), |_| true).len(), 1);
    assert!(!asked(&alerts, 1030, Some(&pools))[0].may_pass, "people are told of it");
    // It is back, and who was told isn't told yet that it is over.
    changed.disks[0].state = DiskState::Usable;
    assert_eq!(asked(&alerts, 1025, Some(&[changed])), []);
}

#[test]
fn the_worst_comes_first_then_the_oldest() {
    let mut alerts = Alerts::default();
    let mut changed = pool();
    changed.state = PoolState::Degraded;
    changed.disks[1].state = DiskState::Missing;
    changed.disks[1].last_seen_secs = Some(400);
    changed.volumes[0].survives_disks = 0;
    let told = asked(&alerts, 1000, Some(&[changed]));
    let kinds: Vec<&str> = told.iter().map(|one| one.kind.as_str()).collect();
    assert_eq!(kinds, ["volume-redundancy", "disk-gone", "pool-degraded"]);
    // What happened once is wrong for a day, though no report says so.
    let lost = PoolEvent::Unrepairable {
        pool: "tank".into(),
        volume: "v".into(),
        offset_bytes: 0,
        length_bytes: 4096,
        disks: vec!["e1.0".into()],
    };
    alerts.incidents.note_event(&lost, 1000);
    let told = asked(&alerts, 1001, Some(&[pool()]));
    assert!(told.len() == 1 && told[0].data.starts_with("LOST"), "{told:?}");
    assert_eq!(asked(&alerts, 1001 + 24 * 3600, Some(&[pool()])), []);
}

#[test]
fn what_it_means_for_data_hangs_on_what_still_may_fail() {
    type Change = fn(&mut PoolReport);
    let cases: [(Change, &str); 15] = [
        (
            |p| {
                p.state = PoolState::Suspended { why: "votes".into() };
                p.lease_ok = false;
            },
            "attached on this machine has ended with errors",
        ),
        (|p| (p.votes.total, p.votes.present) = (5, 1), "waits until 2 more are in reach"),
        (|p| p.disks[0].state = DiskState::Missing, "the pool survives 2 further failures"),
        (
            |p| {
                p.disks[0].state = DiskState::Missing;
                p.survives = 0;
            },
            "survives no further failure: the next one may stop it, or lose data",
        ),
        (
            |p| {
                p.disks[0].state = DiskState::Missing;
                p.volumes[0].state = VolumeState::Suspended { why: "e1.0 is away".into() };
            },
            "not all of volume tank/v is in reach",
        ),
        (|p| p.state = PoolState::Suspended { why: "x".into() }, "requests wait"),
        (
            |p| {
                p.volumes.push(p.volumes[0].clone());
                p.state = PoolState::Suspended { why: "x".into() };
                p.volumes[0].state = VolumeState::Suspended { why: "e1.0 is away".into() };
            },
            "the other volumes serve",
        ),
        (|p| p.volumes[0].survives_disks = 0, "with one more disk some of it would be LOST"),
        (
            |p| {
                p.volumes[0].survives_disks = 1;
                p.volumes[0].survives_nodes = 0;
            },
            "also without 1 more of its disks; with one more machine",
        ),
        (
            |p| {
                p.volumes[0].survives_disks = 1;
                p.volumes[0].survives_nodes = 1;
            },
            "also without 1 more of its disks, or 1 of its machines",
        ),
        // Nothing is read while votes are missing, whatever the copies are.
        (
            |p| {
                p.state = PoolState::Suspended { why: "votes".into() };
                p.volumes[0].survives_disks = 0;
            },
            "where a log is damaged, some of it may be lost",
        ),
        (
            |p| {
                p.disks[0].state = DiskState::Missing;
                p.scrub = Some(damaged());
            },
            "some of it is lost; the pool survives 2",
        ),
        (
            |p| {
                p.state = PoolState::Degraded;
                p.read_only = true;
            },
            "as far as is known nothing is lost by it; the pool survives 2",
        ),
        (|p| p.votes.present = 2, "with one more out of reach the pool waits"),
        (
            |p| (p.votes.total, p.votes.present) = (5, 4),
            "1 more may be out of reach before the pool waits",
        ),
    ];
    for (change, expected) in cases {
        let mut changed = pool();
        change(&mut changed);
        let told = asked(&Alerts::default(), 1000, Some(&[changed]));
        assert!(told.iter().any(|one| one.data.contains(expected)), "{expected}: {told:#?}");
    }
}

/// To replace the last copy of something by a blank disk is no way out.
#[test]
fn a_disk_that_a_pool_waits_for_is_to_be_brought_back() {
    let remedy = |state: PoolState| {
        let mut changed = pool();
        changed.state = state;
        changed.disks[0].state = DiskState::Missing;
        let told = asked(&Alerts::default(), 1000, Some(&[changed]));
        told.into_iter().find(|one| one.kind == "disk-gone").unwrap().remedy
    };
    assert!(remedy(PoolState::Degraded).contains("pool replace tank e1.0 NEW"));
    let waits = remedy(PoolState::Suspended { why: "e1.0 is away".into() });
    assert!(waits.starts_with("bring it back") && !waits.contains("replace"), "{waits}");
}

#[test]
fn what_passes_by_itself_wakes_nobody_and_is_not_called_well() {
    let mut changed = pool();
    changed.state = PoolState::Opening;
    assert_eq!(wrong(Some(&[changed.clone()])), []);
    let told = asked(&Alerts::default(), 1000, Some(&[changed.clone()]));
    assert!(told.len() == 1 && told[0].kind == "pool-not-open" && !told[0].may_pass, "{told:?}");
    changed.state = PoolState::Degraded;
    changed.read_only = true;
    changed.volumes[0].state = VolumeState::Incomplete { why: "e1.0 is away".into() };
    let told = asked(&Alerts::default(), 1000, Some(&[changed.clone()]));
    assert!(told.len() == 1 && told[0].text.ends_with("volume v: e1.0 is away"), "{told:?}");
    changed.state = PoolState::Released;
    assert_eq!(asked(&Alerts::default(), 1000, Some(&[changed])), []);

    // A log that is full for a moment is no more than a brake.
    let (mut alerts, mut full) = (Alerts::default(), pool());
    full.volumes[0].log_bytes = 950;
    let pools = [full];
    assert_eq!(asked(&alerts, 1000, Some(&pools)), []);
    for now in [1000, 1030, 1060] {
        let found = Condition { subject: "v".into(), ..condition(Kind::LogSpace, Severity::Error) };
        alerts.step(now, vec![found], |_| true);
    }
    assert_eq!(asked(&alerts, 1060, Some(&pools)).len(), 1, "it stays full");
}

#[test]
fn what_was_known_stays_wrong_while_nobody_can_tell() {
    let mut alerts = Alerts::default();
    for now in [1000, 1030] {
        alerts.step(now, vec![condition(Kind::DiskGone, Severity::Warning)], |_| true);
    }
    let told = asked(&alerts, 1040, None);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].may_pass, "the next answer may be there");
    assert!(told[0].text.contains("doesn't say how its pools are"), "{told:?}");
    assert!(
        told[1].kind == "disk-gone" && told[1].since_secs == 1000 && !told[1].may_pass,
        "{told:?}"
    );
    assert!(told.iter().all(|one| one.data.contains("isn't known")), "{told:?}");
    assert_eq!(asked(&alerts, 1040, Some(&[pool()])), []);
}

#[test]
fn a_former_answer_says_nothing_of_what_is_wrong() {
    let status: crate::api::Status = serde_json::from_str(
        r#"{"version":"0.1.0","host":"h","owner":"o","supervisor_pid":1,"engine":null,"services_pid":2,
            "engine_restarts":0,"pools":[],"services":[],"warnings":[]}"#,
    )
    .unwrap();
    assert_eq!(status.wrong, None);
}

//! Labels of disks, and the failure domains that they join.

use std::rc::Rc;
use std::time::Duration;

use super::super::testing::{Bench, Mode, TestDisk};
use super::super::{CreatePool, ExtendPool, LabelDisks, VolumeSize};
use super::pattern;
use crate::allocate::MovePlan;
use crate::error::PoolError;
use crate::forecast::LabelForecast;
use crate::format::MIB;
use crate::metadata::{DomainLabel, Labels, Layout, MetaRecord};
use crate::report::{PoolEvent, PoolReport, VolumeReport};
use crate::spare::Spare;

fn labels(of: &[&str]) -> Vec<DomainLabel> {
    of.iter().map(|label| label.parse().unwrap()).collect()
}

fn request(bench: &Bench, disks: usize, domains: &[&str]) -> CreatePool {
    CreatePool { domains: labels(domains), ..bench.request(disks) }
}

fn create(bench: &Bench, disks: usize, domains: &[&str]) -> Result<PoolReport, PoolError> {
    let (engine, request) = (Rc::clone(&bench.engine), request(bench, disks, domains));
    bench.run(async move { engine.create_pool(request).await })
}

fn label(bench: &Bench, of: &[&str], dry_run: bool) -> Result<LabelForecast, PoolError> {
    let (engine, request) = (Rc::clone(&bench.engine), LabelDisks { labels: labels(of), dry_run });
    bench.run(async move { engine.label_disks("pool", &request).await })
}

fn add(bench: &Bench, name: &str, layout: Layout) -> Result<VolumeReport, PoolError> {
    let (engine, name) = (Rc::clone(&bench.engine), name.to_owned());
    bench.run(async move {
        engine.create_volume("pool", &name, VolumeSize::Bytes(4 * MIB), layout).await
    })
}

const RACKS: [&str; 2] = ["rack=A:e0.0,e1.0", "rack=B:node-2,node-3"];

#[test]
fn copies_are_on_different_racks_and_one_of_them_may_be_lost() {
    let bench = Bench::new(1, 4, 48);
    create(&bench, 4, &RACKS).unwrap();
    let volume = add(&bench, "v", Layout::Mirror(2)).unwrap();
    assert!(!volume.degraded);
    bench.pass(Duration::from_secs(5));
    let report = bench.report();
    let of = |name: &str| report.disks.iter().find(|disk| disk.name == name).unwrap();
    assert_eq!(of("e1.0").labels, of("e0.0").labels);
    assert_ne!(of("e1.0").labels, of("e3.0").labels);
    let volume = &report.volumes[0];
    let racks: Vec<u32> = volume.survives_labels.values().copied().collect();
    assert_eq!((racks, volume.survives_nodes, volume.shared_groups), (vec![1], 1, 0));
    // Two votes of one, and the third is no majority.
    assert_eq!((report.votes.total, report.survives), (3, 0));
    assert!(report.votes.lacks_witness);
    let opened = bench.engine.open_volume("pool", "v").unwrap();
    bench.write(&opened, 3, pattern(3, 4, 9)).unwrap();
    [0, 1].into_iter().for_each(|disk| bench.set_mode(disk, Mode::Lost));
    bench.pass(Duration::from_secs(10));
    assert!(!bench.report().lease_ok, "one vote of three is no majority");
}

#[test]
fn with_a_witness_a_whole_rack_may_be_lost() {
    let bench = Bench::new(2, 5, 48);
    let witnesses = vec!["e4.0".to_owned()];
    let request = CreatePool { witnesses, ..request(&bench, 4, &RACKS) };
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.create_pool(request).await }).unwrap();
    add(&bench, "v", Layout::Mirror(2)).unwrap();
    bench.pass(Duration::from_secs(5));
    let report = bench.report();
    assert_eq!((report.votes.total, report.survives), (5, 1));
    let opened = bench.engine.open_volume("pool", "v").unwrap();
    bench.write(&opened, 3, pattern(3, 4, 9)).unwrap();
    [0, 1].into_iter().for_each(|disk| bench.set_mode(disk, Mode::Lost));
    bench.pass(Duration::from_secs(10));
    assert!(bench.report().lease_ok);
    assert_eq!(bench.read(&opened, 3, 4).unwrap(), pattern(3, 4, 9));
    bench.write(&opened, 7, pattern(7, 4, 1)).unwrap();
}

#[test]
fn a_layout_that_the_domains_cannot_carry_is_refused_by_the_labels_that_join_them() {
    let bench = Bench::new(3, 3, 48);
    create(&bench, 3, &["batch=X:e0.0,e1.0", "rack=A:node-1,e2.0"]).unwrap();
    let error = add(&bench, "v", Layout::Mirror(2)).unwrap_err().to_string();
    for words in [
        "mirror:2 needs free extents on 2 failure domains at once",
        "node-0 and node-1 and node-2, one failure domain (batch=X joins e0.0, e1.0; rack=A joins e1.0, e2.0)",
        "that no label joins with the others",
    ] {
        assert!(error.contains(words), "{error}");
    }
    // All go together, but a machine by itself may go: its votes don't take the others with them.
    assert_eq!(bench.report().votes.total, 3);
    label(&bench, &["batch=:e0.0"], false).unwrap();
    add(&bench, "v", Layout::Mirror(2)).unwrap();
}

#[test]
fn labels_that_change_in_use_are_told_at_once_and_a_rebalance_moves_copies_apart() {
    let bench = Bench::new(4, 4, 48);
    create(&bench, 4, &[]).unwrap();
    add(&bench, "v", Layout::Mirror(2)).unwrap();
    let opened = bench.engine.open_volume("pool", "v").unwrap();
    for first in (0..1024).step_by(64) {
        bench.write(&opened, first, pattern(first, 64, 1)).unwrap();
    }
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.report().survives, 1);
    let on_two_racks = ["rack=A:e0.0,e1.0", "rack=B:e2.0,e3.0"];
    let plan = label(&bench, &on_two_racks, true).unwrap();
    assert_eq!((plan.domains, plan.domains_then, plan.disks.len()), (4, 2, 4));
    let foreseen = plan.shared[0].groups;
    assert!(foreseen > 0 && plan.shared[0].survives_then == 0, "{plan:?}");
    assert_eq!(bench.report().volumes[0].shared_groups, 0, "it was only asked");
    label(&bench, &on_two_racks, false).unwrap();
    let volume = bench.report().volumes[0].clone();
    assert!(volume.degraded);
    assert_eq!(volume.shared_groups, foreseen);
    assert_eq!((volume.survives_disks, *volume.survives_labels.values().next().unwrap()), (1, 0));
    let told = |event: &PoolEvent| match event {
        PoolEvent::DomainsJoined { shared, .. } => Some(shared.clone()),
        _ => None,
    };
    let told = bench.events().iter().find_map(told).unwrap();
    assert!(told.contains("copies of volume v are"), "{told}");
    let engine = Rc::clone(&bench.engine);
    let plan = bench.run(async move { engine.rebalance_pool("pool", false).await }).unwrap();
    assert_eq!((plan.shared_groups, plan.shared_groups_then), (foreseen, 0));
    bench.until(|report| report.jobs.is_empty() && !report.volumes[0].degraded);
    let volume = bench.report().volumes[0].clone();
    assert_eq!((volume.shared_groups, volume.survives_nodes), (0, 1));
    assert_eq!(*volume.survives_labels.values().next().unwrap(), 1);
    for first in (0..1024).step_by(64) {
        assert_eq!(bench.read(&opened, first, 64).unwrap(), pattern(first, 64, 1));
    }
    // The same again is nothing.
    let again = label(&bench, &on_two_racks, false).unwrap();
    assert!(again.disks.is_empty());
}

#[test]
fn logs_of_disks_that_labels_joined_go_apart_without_anybody_writing() {
    let bench = Bench::new(5, 3, 48);
    create(&bench, 3, &[]).unwrap();
    add(&bench, "v", Layout::Mirror(2)).unwrap();
    let opened = bench.engine.open_volume("pool", "v").unwrap();
    bench.write(&opened, 3, pattern(3, 4, 9)).unwrap();
    bench.pass(Duration::from_secs(5));
    let logs = |bench: &Bench| {
        let open = bench.engine.open_pool("pool").unwrap();
        let meta = open.pool.meta.borrow();
        let volume = meta.volumes().values().next().unwrap().clone();
        let segments = volume.log.segments.values();
        let copies = |segment: &crate::metadata::Segment| -> Vec<String> {
            segment.copies.iter().map(|copy| open.pool.disk_name(copy.disk)).collect()
        };
        segments.map(copies).collect::<Vec<_>>()
    };
    let pair = logs(&bench).last().unwrap().clone();
    assert_eq!(pair.len(), 2);
    label(&bench, &[&format!("rack=A:{}", pair.join(","))], false).unwrap();
    for _ in 0..40 {
        bench.pass(Duration::from_secs(1));
        if logs(&bench).iter().all(|copies| copies.len() == 2 && *copies != pair) {
            return;
        }
    }
    panic!("{:?}", logs(&bench));
}

#[test]
fn a_log_whose_disks_are_all_one_domain_keeps_its_copies_on_two_machines() {
    let bench = Bench::new(6, 3, 48);
    create(&bench, 3, &[]).unwrap();
    add(&bench, "v", Layout::Mirror(2)).unwrap();
    label(&bench, &["batch=7:e0.0,e1.0,e2.0"], false).unwrap();
    let opened = bench.engine.open_volume("pool", "v").unwrap();
    for first in (0..1024).step_by(64) {
        bench.write(&opened, first, pattern(first, 64, 1)).unwrap();
        bench.pass(Duration::from_millis(300));
        let open = bench.engine.open_pool("pool").unwrap();
        let meta = open.pool.meta.borrow();
        let volume = meta.volumes().values().next().unwrap();
        assert!(volume.log.segments.values().all(|segment| segment.copies.len() == 2));
    }
}

#[test]
fn a_disk_brings_its_labels_and_takes_them_along() {
    let bench = Bench::new(7, 5, 48);
    create(&bench, 3, &["rack=A:e0.0", "rack=B:e1.0,e2.0"]).unwrap();
    let mut added = ExtendPool::of(&["e3.0".to_owned()]);
    added.domains = labels(&["rack=A:node-3", "batch=7:e3.0"]);
    let (engine, request) = (Rc::clone(&bench.engine), added.clone());
    let plan = bench.run(async move { engine.plan_extend("pool", &request).await }).unwrap();
    assert_eq!(plan.joined, ["rack=A joins e0.0, e3.0", "rack=B joins e1.0, e2.0"]);
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.extend_pool("pool", &added).await }).unwrap();
    let report = bench.report();
    let of = |name: &str| report.disks.iter().find(|disk| disk.name == name).unwrap().clone();
    assert_eq!(of("e3.0").labels.len(), 2);
    // One that is named and isn't added is a mistake.
    let mut strange = ExtendPool::of(&["e4.0".to_owned()]);
    strange.domains = labels(&["rack=A:e3.0"]);
    let engine = Rc::clone(&bench.engine);
    let error = bench.run(async move { engine.extend_pool("pool", &strange).await }).unwrap_err();
    assert!(error.to_string().contains("e3.0 is none of the disks that are named"), "{error}");
    bench.remove("e3.0").unwrap();
    bench.until(|report| report.disks.len() == 3);
    let open = bench.engine.open_pool("pool").unwrap();
    let meta = open.pool.meta.borrow();
    let kept = meta.properties().keys().filter(|key| key.starts_with("domain-")).count();
    assert_eq!(kept, 3);
}

#[test]
fn a_rebalance_moves_apart_and_ends_also_where_that_costs_the_spare() {
    let bench = Bench::new(8, 5, 48);
    // Both racks are as full as the spare allows.
    let request = CreatePool {
        spare: Some(Spare::Disk),
        witnesses: vec!["e4.0".to_owned()],
        ..request(&bench, 4, &["rack=A:e0.0,e2.0", "rack=B:e1.0,e3.0"])
    };
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.create_pool(request).await }).unwrap();
    let (engine, all) = (Rc::clone(&bench.engine), VolumeSize::PercentFree(100));
    let made = async move { engine.create_volume("pool", "v", all, Layout::Mirror(2)).await };
    bench.run(made).unwrap();
    label(&bench, &["rack=A:e0.0,e1.0", "rack=B:e2.0,e3.0"], false).unwrap();
    let report = bench.report();
    assert!(report.volumes[0].shared_groups > 0);
    assert!(report.spare.as_ref().unwrap().is_held(), "{:?}", report.spare);
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.rebalance_pool("pool", false).await }).unwrap();
    bench.until(|report| report.jobs.is_empty());
    assert_eq!(bench.report().volumes[0].shared_groups, 0);
}

#[test]
fn a_machine_is_lost_with_a_label_that_only_one_of_its_disks_has() {
    let disks = [("e1.0", 1, 48), ("e1.1", 1, 96), ("e2.0", 2, 48)];
    let disks = disks.map(|(name, node, mib)| TestDisk::new(name, node, mib * MIB as usize));
    let bench = Bench::with(9, disks.to_vec(), block::Instant::from_nanos(1_000_000_000), 1);
    let request = bench.request(3);
    let engine = Rc::clone(&bench.engine);
    bench.run(async move { engine.create_pool(request).await }).unwrap();
    add(&bench, "v", Layout::Mirror(2)).unwrap();
    label(&bench, &["rack=A:e1.0,e2.0"], false).unwrap();
    let volume = bench.report().volumes[0].clone();
    assert_eq!((volume.survives_disks, volume.survives_nodes), (1, 1));
    assert_eq!(volume.survives_labels.into_values().collect::<Vec<_>>(), [0]);
}

#[test]
fn no_position_begins_to_move_beside_another_one_that_labels_joined_meanwhile() {
    let bench = Bench::new(10, 4, 48);
    create(&bench, 4, &[]).unwrap();
    add(&bench, "v", Layout::Mirror(2)).unwrap();
    let open = bench.engine.open_pool("pool").unwrap();
    let volume = open.volumes.borrow().values().next().unwrap().clone();
    let begin = |to_label: bool| {
        let (run, position, count, to) = {
            let meta = open.pool.meta.borrow();
            let run = meta.volumes()[&volume.id].runs.values().next().unwrap().clone();
            let usable = open.pool.usable_disks();
            let place = MovePlan::new(&meta, &usable).take_some(&run, 0, run.count, None);
            let (count, to) = place.unwrap();
            (run, 0, count, to)
        };
        assert_eq!(count, run.count);
        if to_label {
            let names = [to.disk, run.members[1].disk].map(|disk| open.pool.disk_name(disk));
            label(&bench, &[&format!("rack=A:{}", names.join(","))], false).unwrap();
        }
        let (open, volume) = (Rc::clone(&open), Rc::clone(&volume));
        bench.run(async move {
            let change = open.begin_move(&volume, &run, position, to);
            open.change_map(vec![change]).await.unwrap()
        })
    };
    assert!(!begin(true), "it would share a rack with the other one");
    assert!(begin(false));
    // Nor does one end there that had begun.
    let meta = open.pool.meta.borrow();
    let run = meta.volumes()[&volume.id].runs.values().next().unwrap();
    assert!(!open.joins_copies(&meta, run));
    let incoming = run.incoming.unwrap().member.disk;
    let rack = "rack=B:e0.0".parse::<DomainLabel>().unwrap();
    let mut in_rack = Labels::new();
    rack.put_on(&mut in_rack, "").unwrap();
    let in_rack = |disk| MetaRecord::labels(disk, &in_rack);
    let other = run.members[1].disk;
    assert!(open.joins_copies(&meta.with(&[in_rack(incoming), in_rack(other)]).unwrap(), run));
    // What it leaves is no better.
    let all = [in_rack(incoming), in_rack(other), in_rack(run.members[0].disk)];
    assert!(!open.joins_copies(&meta.with(&all).unwrap(), run));
}

/// No domain may be lost there, but a machine may, as long as nobody counts on a dead one.
#[test]
fn a_dead_vote_is_replaced_where_racks_leave_nothing_to_spare() {
    let bench = Bench::new(12, 4, 48);
    create(&bench, 4, &RACKS).unwrap();
    bench.pass(Duration::from_secs(5));
    let voters = |bench: &Bench| -> Vec<String> {
        let disks = bench.report().disks.into_iter().filter(|disk| disk.holds_vote);
        disks.map(|disk| disk.name).collect()
    };
    let before = voters(&bench);
    assert_eq!(before.len(), 3);
    let dead = before[0].clone();
    let index: usize = dead[1..2].parse().unwrap();
    bench.set_mode(index, Mode::Lost);
    for _ in 0..30 {
        bench.pass(Duration::from_secs(60));
        let now = voters(&bench);
        if now.len() == 3 && !now.contains(&dead) {
            return;
        }
    }
    panic!("{dead} of {before:?} is dead, and these vote: {:?}", voters(&bench));
}

#[test]
fn a_pool_has_labels_of_so_many_kinds() {
    let bench = Bench::new(11, 2, 48);
    let many: Vec<String> = (0..9).map(|kind| format!("k{kind}=A:e{}.0", kind % 2)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let error = create(&bench, 2, &many).unwrap_err().to_string();
    assert!(error.contains("more than 8 kinds"), "{error}");
    create(&bench, 2, &many[..8]).unwrap();
    let error = label(&bench, &["more=A:e1.0"], false).unwrap_err().to_string();
    assert!(error.contains("k7, more") && error.contains("more than 8 kinds"), "{error}");
    label(&bench, &["k7=:e1.0", "more=A:e1.0"], false).unwrap();
}

#![allow(clippy::expect_used)]

use super::*;
use crate::metadata::testing::{disk_added, pool_of};

const SIZES: [(u32, u64); 6] = [(0, 64), (0, 64), (1, 64), (1, 64), (2, 64), (3, 64)];

fn labelled(domain: FailureDomain, labels: &[(u32, &str)]) -> Metadata {
    let mut meta = pool_of(domain, &SIZES.map(|(node, mib)| (node, mib * 16)));
    for (disk, words) in labels {
        let set = MetaRecord::PoolPropertySet {
            key: key_of(KEY, DiskNumber(*disk)),
            value: Some((*words).to_owned()),
        };
        meta.apply(&set).expect("applies");
    }
    meta
}

/// The disks of each domain, in the order of their first ones.
fn domains(meta: &Metadata) -> Vec<Vec<u32>> {
    let mut by_domain: BTreeMap<Uuid, Vec<u32>> = BTreeMap::new();
    for disk in meta.disks().values() {
        by_domain.entry(meta.domain_of(disk)).or_default().push(disk.number.0);
    }
    let mut domains: Vec<Vec<u32>> = by_domain.into_values().collect();
    domains.sort();
    domains
}

#[test]
fn labels_join_domains_and_never_split_one() {
    let nodes = |labels| domains(&labelled(FailureDomain::Node, labels));
    let disks = |labels| domains(&labelled(FailureDomain::Disk, labels));
    assert_eq!(nodes(&[]), [vec![0, 1], vec![2, 3], vec![4], vec![5]]);
    assert_eq!(disks(&[]), [vec![0], vec![1], vec![2], vec![3], vec![4], vec![5]]);
    // Different values of one machine's disks part nothing.
    assert_eq!(nodes(&[(0, "rack=A"), (1, "rack=B")]), nodes(&[]));
    assert_eq!(nodes(&[(0, "rack=A"), (4, "rack=A")]), [vec![0, 1, 4], vec![2, 3], vec![5]]);
    assert_eq!(disks(&[(0, "rack=A"), (4, "rack=A")])[0], [0, 4]);
    // A value means something only with its kind.
    assert_eq!(nodes(&[(0, "rack=A"), (4, "room=A")]), nodes(&[]));
    // One thing leads to another: 0 and 2 by the rack, 3 and 5 by the batch, 2 and 3 by their machine.
    let chain = [(0, "rack=A"), (2, "rack=A"), (3, "batch=7 rack=B"), (5, "batch=7")];
    assert_eq!(nodes(&chain), [vec![0, 1, 2, 3, 5], vec![4]]);
    assert_eq!(disks(&chain), [vec![0, 2], vec![1], vec![3, 5], vec![4]]);
}

#[test]
fn a_domain_is_called_the_same_in_whatever_order_its_labels_came() {
    let one = labelled(FailureDomain::Node, &[(5, "rack=A"), (2, "rack=A"), (0, "rack=A")]);
    let other = labelled(FailureDomain::Node, &[(0, "rack=A"), (2, "rack=A"), (5, "rack=A")]);
    for disk in one.disks().values() {
        assert_eq!(one.domain_of(disk), other.domain_of(disk));
    }
    let least = one.disks().get(&DiskNumber(0)).expect("a disk").node;
    assert_eq!(one.domain_of(one.disks().get(&DiskNumber(5)).expect("a disk")), least);
}

#[test]
fn domains_follow_disks_and_labels_as_they_change() {
    let mut meta = labelled(FailureDomain::Node, &[(0, "rack=A"), (4, "rack=A")]);
    assert_eq!(domains(&meta)[0], [0, 1, 4]);
    let before = meta.clone();
    meta.apply(&MetaRecord::labels(DiskNumber(4), &Labels::new())).expect("applies");
    assert_eq!(domains(&meta), [vec![0, 1], vec![2, 3], vec![4], vec![5]]);
    assert_eq!(domains(&before)[0], [0, 1, 4], "a clone keeps its own");
    let words = before.labels(DiskNumber(0));
    meta.apply(&MetaRecord::labels(DiskNumber(5), &words)).expect("applies");
    assert_eq!(domains(&meta)[0], [0, 1, 5]);
    // Whoever comes to a machine is in its domain, labelled or not.
    meta.apply(&disk_added(6, 3, 1 << 30, 8 << 20)).expect("applies");
    assert_eq!(domains(&meta)[0], [0, 1, 5, 6]);
    let (number, node) = (DiskNumber(5), Uuid::from_u128(0x200 + 2));
    meta.apply(&MetaRecord::DiskMoved { number, node, node_name: "node-2".into() })
        .expect("applies");
    assert_eq!(domains(&meta), [vec![0, 1, 4, 5], vec![2, 3], vec![6]]);
    meta.apply(&MetaRecord::DiskRemoved { number }).expect("applies");
    assert_eq!(domains(&meta), [vec![0, 1], vec![2, 3], vec![4], vec![6]]);
}

#[test]
fn what_joins_disks_is_told() {
    let joints = |labels| {
        let joints = labelled(FailureDomain::Node, labels).joints(None).into_iter();
        let told = joints.map(|joint| {
            let disks: Vec<u32> = joint.disks.iter().map(|disk| disk.0).collect();
            (format!("{}={}", joint.kind, joint.value), disks)
        });
        told.collect::<Vec<_>>()
    };
    // The disks of one machine are lost together in any case.
    assert_eq!(joints(&[(0, "rack=A"), (1, "rack=A"), (4, "rack=B")]), []);
    let told = joints(&[(0, "rack=A"), (4, "batch=7 rack=A"), (5, "batch=7")]);
    assert_eq!(told, [("batch=7".to_owned(), vec![4, 5]), ("rack=A".to_owned(), vec![0, 4])]);
}

#[test]
fn what_cannot_be_read_is_no_label() {
    let long = "x".repeat(LABEL_WORD_BYTES_MAX + 1);
    let words = format!("rack=A  =B room= x {long}=1 y={long} node=1 a/b=c =");
    let meta = labelled(FailureDomain::Node, &[(0, &words), (1, "")]);
    assert_eq!(meta.labels(DiskNumber(0)).len(), 1);
    assert_eq!(meta.labels(DiskNumber(1)).len(), 0);
    let many: Vec<String> = (0..99).map(|kind| format!("k{kind}=1")).collect();
    let meta = labelled(FailureDomain::Node, &[(0, &many.join(" "))]);
    assert_eq!(meta.labels(DiskNumber(0)).len(), LABELS_MAX);
}

#[test]
fn labels_are_kept_as_they_were_given() {
    let mut labels = Labels::new();
    let mut put = |text: &str| {
        let label: DomainLabel = text.parse().expect("a label");
        assert_eq!(label.to_string(), text);
        label.put_on(&mut labels, "e1.0").map(|()| labels.clone())
    };
    put("rack=A:e1.0,e1.1").expect("fits");
    put("batch=2019-03:node1").expect("fits");
    let kept = put("rack=B:/dev/disk/by-path/pci-0000:00").expect("fits");
    let meta = labelled(FailureDomain::Node, &[]);
    let meta = meta.with(&[MetaRecord::labels(DiskNumber(1), &kept)]).expect("applies");
    assert_eq!(meta.properties().get("domain-1").map(String::as_str), Some("batch=2019-03 rack=B"));
    assert_eq!(meta.labels(DiskNumber(1)), kept);
    assert_eq!(put("rack=:e1.0").expect("fits").len(), 1);
    for kind in 0..LABELS_MAX - 1 {
        put(&format!("k{kind}=1:e1.0")).expect("fits");
    }
    assert_eq!(put("more=1:e1.0"), Err(InvalidLabel::TooMany("e1.0".into())));
}

#[test]
fn what_is_no_label_is_refused_by_name() {
    for wrong in ["rack", "rack=A", "rack:e1.0", "=A:e1.0", "rack=A:", "rack=A:e1.0,", "a b=c:x"] {
        assert!(wrong.parse::<DomainLabel>().is_err(), "{wrong}");
    }
    for taken in ["node=1:e1.0", "disk=1:e1.0", "machine=1:e1.0"] {
        assert!(matches!(taken.parse::<DomainLabel>(), Err(InvalidLabel::Taken(_))), "{taken}");
    }
}

//! Reports to print in tests.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use aoe_wire::ShelfSlot;
use block::{Histogram, VolumeName};
use control::alerts::{Kind, Wrong};
use control::api::{
    FuseOverIoUring, InterfaceState, ProcessState, SeenTarget, ServiceState, Status, VolumeServices,
};
use pool::{
    DestageStats, DiskOperations, DiskReport, DiskState, DiskStats, JobReport, JobState,
    OperationStats, PoolDisk, PoolReport, PoolState, Replayed, RequestStats, ScrubReport,
    VolumeReport, VolumeState, VolumeStats, VotesReport,
};

/// A free disk.
pub fn disk(name: &str) -> DiskReport {
    DiskReport {
        name: name.into(),
        node: "n1".into(),
        device_name: "/dev/sdb".into(),
        serial: String::new(),
        last_seen_secs: None,
        health: None,
        size_bytes: 1 << 30,
        content: "blank".into(),
        pool: None,
        owner: None,
        state: DiskState::Free,
        labels: Default::default(),
    }
}

/// A target of ours.
pub fn target() -> SeenTarget {
    SeenTarget {
        address: ShelfSlot { shelf: 1, slot: 0 },
        interface: "eth0".into(),
        mac: "02:00:00:00:00:01".into(),
        size_bytes: Some(1 << 30),
        session: true,
        node: Some("n1".into()),
        name: Some("/dev/sdb".into()),
        owner: None,
        trouble: None,
    }
}

/// A mounted volume.
pub fn volume() -> VolumeReport {
    VolumeReport {
        name: "v".into(),
        id: "1".into(),
        layout: "mirror:2".into(),
        converting_to: None,
        size_bytes: 1 << 30,
        properties: BTreeMap::from([("mount".into(), r#"{"path":"/srv/v"}"#.into())]),
        state: VolumeState::Online,
        degraded: false,
        dirty_bytes: 0,
        resynced_bytes: 0,
        read_bytes: 0,
        written_bytes: 0,
        repaired_blocks: 0,
        log_bytes: 0,
        log_capacity_bytes: 1 << 20,
        survives_disks: 1,
        survives_nodes: 1,
        survives_labels: Default::default(),
        shared_groups: 0,
        replayed: Replayed { records: 2, blocks: 9 },
        replaying: None,
    }
}

/// Two reads, one of them slow, a write that waited for the log's room, and a destage.
pub fn volume_stats() -> VolumeStats {
    let times = |micros: &[u64]| {
        let mut times = Histogram::default();
        micros.iter().for_each(|us| times.note(Duration::from_micros(*us)));
        times
    };
    let read = RequestStats {
        bytes: 8192,
        total: times(&[200, 5000]),
        queue: times(&[0, 0]),
        device: times(&[200, 5000]),
        ..RequestStats::default()
    };
    let write = RequestStats {
        bytes: 65536,
        errors: 1,
        total: times(&[9000, 10_000]),
        room: times(&[8000, 8000]),
        queue: times(&[0, 0]),
        log: times(&[1000]),
        ..RequestStats::default()
    };
    let operations = DiskOperations {
        read: OperationStats { bytes: 8192, total: times(&[200, 5000]) },
        network: OperationStats { bytes: 0, total: times(&[100]) },
        ..DiskOperations::default()
    };
    VolumeStats {
        began_ms: 1000,
        now_ms: 7_201_000,
        read,
        write,
        destage: DestageStats { blocks: 16, bytes: 65536, total: times(&[30_000, 900]) },
        disks: vec![DiskStats { name: "e1.0".into(), node: "n1".into(), operations }],
        ..VolumeStats::default()
    }
}

/// A pool in order.
pub fn pool() -> PoolReport {
    PoolReport {
        read_only: false,
        stale_secs: None,
        name: "cluster".into(),
        id: "11111111-1111-1111-1111-111111111111".into(),
        state: PoolState::Online,
        owner: "host".into(),
        epoch: 3,
        capacity_bytes: 3 << 30,
        free_bytes: 1 << 30,
        survives: 1,
        disks: vec![PoolDisk {
            device_name: "/dev/sda".into(),
            serial: String::new(),
            last_seen_secs: None,
            health: None,
            name: "e1.0".into(),
            id: "33333333-3333-3333-3333-333333333333".into(),
            node: "n1".into(),
            node_key: None,
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
        }],
        votes: VotesReport { total: 3, present: 3, lacks_witness: false },
        lease_ok: true,
        ours: true,
        volumes: vec![volume()],
        jobs: Vec::new(),
        scrub: Some(scrub()),
        spare: None,
        grant: None,
    }
}

/// A scrub that found nothing.
pub fn scrub() -> ScrubReport {
    ScrubReport {
        begun_secs: Some(800_000),
        ended_secs: Some(1_000_000 - 2 * 86_400),
        next_secs: Some(1_000_000 + 5 * 86_400),
        blocks: 2,
        ..ScrubReport::default()
    }
}

/// An evacuation that is three quarters done.
pub fn job() -> JobReport {
    JobReport {
        number: 2,
        kind: "evacuate".into(),
        disk: "e1.0".into(),
        volume: None,
        to: None,
        total_bytes: 1 << 30,
        left_bytes: 1 << 28,
        state: JobState::Running,
    }
}

/// A disk that has been gone for 20 minutes when [`status`] was so.
pub fn wrong() -> Wrong {
    Wrong {
        kind: Kind::DiskGone.to_string(),
        pool: Some("cluster".into()),
        subject: "e1.0".into(),
        severity: pool::Severity::Warning,
        text: "pool cluster: disk e1.0 (/dev/sda on n1) is gone".into(),
        since_secs: 1_000_000 - 20 * 60,
        data: "as far as is known nothing is lost by it; the pool survives 1 further failure"
            .into(),
        remedy: "bring it back".into(),
        may_pass: false,
    }
}

/// A supervisor with everything on.
pub fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        at_secs: 1_000_000,
        wrong: Some(Vec::new()),
        host: "host".into(),
        owner: "22222222-2222-2222-2222-222222222222".into(),
        supervisor_pid: 10,
        engine: Some(ProcessState {
            pid: 11,
            interfaces: vec![InterfaceState {
                name: "eth0".into(),
                mac: "02:00:00:00:00:09".into(),
                mtu_bytes: 9000,
                trouble: None,
            }],
            ..ProcessState::default()
        }),
        services_pid: 12,
        engine_restarts: 0,
        pools: vec![pool()],
        services: vec![VolumeServices {
            volume: VolumeName::new("cluster", "v").unwrap(),
            device: Some("/dev/loop0".into()),
            mount: ServiceState::On,
            mount_path: Some("/srv/v".into()),
            ftp: ServiceState::On,
            ftp_listen: Some(([127, 0, 0, 1], 2121).into()),
            exports: vec![ShelfSlot { shelf: 7, slot: 1 }],
            trouble: None,
            busy_processes: Vec::new(),
        }],
        fuse_over_io_uring: FuseOverIoUring::Off,
        held: Vec::new(),
        troubles: Vec::new(),
        warnings: Vec::new(),
        alerts: Default::default(),
    }
}

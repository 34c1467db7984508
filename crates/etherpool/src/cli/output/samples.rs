//! Reports to print in tests.

use aoe::wire::ShelfSlot;
use std::collections::BTreeMap;

use control::api::{
    InterfaceState, ProcessState, SeenTarget, ServiceState, Status, VolumeServices,
};
use control::names::VolumeName;
use pool::{
    DiskReport, DiskState, PoolDisk, PoolReport, PoolState, Replayed, VolumeReport, VotesReport,
};

/// A free disk.
pub fn disk(name: &str) -> DiskReport {
    DiskReport {
        name: name.into(),
        node: "n1".into(),
        device_name: "/dev/sdb".into(),
        size_bytes: 1 << 30,
        content: "blank".into(),
        pool: None,
        owner: None,
        state: DiskState::Free,
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
        size_bytes: 1 << 30,
        properties: BTreeMap::from([("mount".into(), r#"{"path":"/srv/v"}"#.into())]),
        degraded: false,
        missed_bytes: 0,
        resynced_bytes: 0,
        read_bytes: 0,
        written_bytes: 0,
        repaired_blocks: 0,
        log_bytes: 0,
        suspended: None,
        replayed: Replayed { records: 2, blocks: 9 },
    }
}

/// A pool in order.
pub fn pool() -> PoolReport {
    PoolReport {
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
            name: "e1.0".into(),
            id: "33333333-3333-3333-3333-333333333333".into(),
            node: "n1".into(),
            size_bytes: 1 << 30,
            free_bytes: 1 << 29,
            state: DiskState::Usable,
            missed_bytes: 0,
            checksum_errors: 0,
            holds_vote: true,
        }],
        votes: VotesReport { total: 3, in_sight: 3 },
        lease_ok: true,
        volumes: vec![volume()],
    }
}

/// A supervisor with everything on.
pub fn status() -> Status {
    Status {
        version: "0.1.0".into(),
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
            volume: VolumeName::new("cluster", "v"),
            device: Some("/dev/loop0".into()),
            mount: ServiceState::On,
            mount_path: Some("/srv/v".into()),
            ftp: ServiceState::On,
            ftp_listen: Some(([127, 0, 0, 1], 2121).into()),
            exports: vec![ShelfSlot { shelf: 7, slot: 1 }],
            trouble: None,
            busy_processes: Vec::new(),
        }],
        held: Vec::new(),
        troubles: Vec::new(),
        warnings: Vec::new(),
    }
}

use super::*;

fn in_world<T: 'static>(body: impl AsyncFnOnce(Rc<Disk>) -> T + 'static) -> T {
    let world = World::new(5, false);
    let disk = Disk::new(&world, "d", 1 << 20);
    world.run(Duration::from_secs(60), async move { body(disk).await }).unwrap()
}

#[test]
fn a_flush_names_its_instance_and_a_failure_is_told_once() {
    in_world(async |disk| {
        let first = disk.open();
        let written = first.write(Lba(0), Buffer::copy_of(&[7; 512]), Durability::Volatile);
        let instance = written.await.unwrap().instance;
        disk.fail_flushes(1);
        assert_eq!(first.flush(instance).await, Err(IoError::FlushFailed));
        assert!(first.flush(instance).await.is_ok());
        let second = disk.open();
        assert_eq!(second.flush(instance).await, Err(IoError::Restarted { now: second.instance }));
        assert!(second.flush(second.instance).await.is_ok());
    });
}

#[test]
fn a_durable_write_survives_and_a_volatile_one_may_not() {
    in_world(async |disk| {
        let device = disk.open();
        let ones = Buffer::copy_of(&[1; 1024]);
        device.write(Lba(8), ones.clone(), Durability::Durable).await.unwrap();
        device.write(Lba(16), ones, Durability::Volatile).await.unwrap();
        disk.cut_power(Survival::None);
        assert_eq!(disk.peek(SectorRange::new(Lba(8), 2)), [1; 1024]);
        assert_eq!(disk.peek(SectorRange::new(Lba(16), 2)), [0; 1024]);
    });
}

#[test]
fn what_overlaps_runs_in_order_of_the_calls() {
    in_world(async |disk| {
        let device = disk.open();
        let mut reads = Vec::new();
        let mut writes = Vec::new();
        for value in 0..20u8 {
            let data = Buffer::copy_of(&[value; 512]);
            writes.push(device.write(Lba(3), data, Durability::Volatile));
            reads.push((value, device.read(SectorRange::new(Lba(3), 1))));
        }
        for (value, read) in reads {
            assert_eq!(read.await.unwrap().value[0], value);
        }
        drop(writes);
    });
}

#[test]
fn bad_sectors_heal_when_written() {
    in_world(async |disk| {
        let device = disk.open();
        disk.set_bad(SectorRange::new(Lba(9), 1));
        let failed = device.read(SectorRange::new(Lba(8), 8)).await;
        assert_eq!(failed, Err(IoError::Medium(SectorRange::new(Lba(9), 1))));
        device.write(Lba(9), Buffer::zeroed(512), Durability::Volatile).await.unwrap();
        assert!(device.read(SectorRange::new(Lba(8), 8)).await.is_ok());
        let beyond = SectorRange::new(Lba(u64::MAX - 1), 4);
        assert_eq!(device.read(beyond).await, Err(IoError::OutOfRange(beyond)));
    });
}

#[test]
fn a_block_is_lost_alone_and_a_copy_is_what_a_cut_would_leave() {
    in_world(async |disk| {
        let device = disk.open();
        disk.lose_next_blocks(*b"lost", 1);
        let mut data = vec![1; 3 * 4096];
        data[4096..4100].copy_from_slice(b"lost");
        let data = Buffer::copy_of(&data);
        device.write(Lba(8), data.clone(), Durability::Volatile).await.unwrap();
        assert_eq!(disk.peek(SectorRange::new(Lba(8), 8)), [1; 4096]);
        assert_eq!(disk.peek(SectorRange::new(Lba(16), 8)), [0; 4096]);
        assert_eq!(disk.peek(SectorRange::new(Lba(24), 8)), [1; 4096]);
        let world = World::new(6, false);
        for (survival, left) in [(Survival::None, [0; 512]), (Survival::All, [1; 512])] {
            let remains = disk.remains(survival, &mut fork(1, "remains"));
            let copy = Disk::restored(&world, &remains);
            assert_eq!(copy.peek(SectorRange::new(Lba(8), 1)), left);
        }
        assert!(!disk.is_stable());
        device.write(Lba(16), data, Durability::Volatile).await.unwrap();
        assert_eq!(&disk.peek(SectorRange::new(Lba(24), 1))[..4], b"lost");
    });
}

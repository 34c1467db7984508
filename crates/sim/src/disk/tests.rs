use block::{BlockDevice, Outcome};

use super::*;
use crate::world::Clock;

fn in_world<T: 'static>(body: impl AsyncFnOnce(Rc<Disk>) -> T + 'static) -> T {
    let world = World::new(5, false);
    let disk = Disk::new(&world, "d", 4 << 20);
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

#[test]
fn faults_wait_for_their_part_of_the_disk() {
    in_world(async |disk| {
        let device = disk.open();
        disk.spoil_next_write(Part::Applied, WriteFault::NoSpace);
        disk.spoil_next_write(Part::Reservation, WriteFault::Error);
        disk.spoil_next_read(Part::Votes, ReadFault::Flipped);
        let write = |sector| device.write(Lba(sector), Buffer::zeroed(4096), Durability::Volatile);
        let written = |sector| SectorRange::new(Lba(sector), 8);
        assert!(write(0).await.is_ok());
        assert_eq!(write(96).await, Err(IoError::NoSpace(written(96))));
        assert!(write(96).await.is_ok());
        assert_eq!(write(24).await, Err(IoError::Medium(written(24))));
        assert!(device.read(written(24)).await.unwrap().value.iter().all(|byte| *byte == 0));
        let read = device.read(written(40)).await.unwrap().value;
        assert_eq!(read.iter().filter(|byte| **byte != 0).count(), 1);
        assert!(device.read(written(40)).await.unwrap().value.iter().all(|byte| *byte == 0));
    });
}

#[test]
fn a_full_store_takes_what_it_had_and_reads_may_be_old_or_of_elsewhere() {
    in_world(async |disk| {
        let device = disk.open();
        let write = |sector, value| {
            device.write(Lba(sector), Buffer::copy_of(&[value; 4096]), Durability::Durable)
        };
        write(8, 1).await.unwrap();
        disk.remember();
        disk.set_full(true);
        write(8, 2).await.unwrap();
        let refused = write(16, 3).await;
        assert_eq!(refused, Err(IoError::NoSpace(SectorRange::new(Lba(16), 8))));
        for (fault, seen) in
            [(ReadFault::Stale, 1), (ReadFault::Misdirected(8), 0), (ReadFault::Misdirected(0), 2)]
        {
            disk.spoil_next_read(Part::Anywhere, fault);
            let read = device.read(SectorRange::new(Lba(8), 8)).await.unwrap().value;
            assert_eq!(read[0], seen, "{fault:?}");
        }
        // Not of the first sectors, where a label that can't be read keeps the disk from opening.
        disk.spoil_next_read(Part::Anywhere, ReadFault::Error);
        assert!(device.read(SectorRange::new(Lba(48), 8)).await.is_err());
        disk.heal();
        write(16, 3).await.unwrap();
        disk.set_chances(Chances { write_error: 1.0, flush_error: 1.0, ..Chances::default() });
        assert!(write(16, 3).await.is_err());
        assert!(!disk.is_to_be_reopened());
        assert_eq!(device.flush(device.instance).await, Err(IoError::FlushFailed));
        assert!(disk.is_to_be_reopened());
    });
}

/// Each way keeps the order of overlapping calls; what queues for a thread goes with its process.
#[test]
fn every_way_keeps_the_order_and_only_a_queue_dies_with_its_process() {
    for (way, done_after_kill) in [(Way::Direct, true), (Way::AtOnce, true), (Way::Queued, false)] {
        let world = World::new(7, false);
        let disk = Disk::new(&world, "d", 1 << 20);
        let process = world.start_process("p", Clock::default());
        let handle = process.handle().unwrap();
        let device = disk.open_as(way, Some(handle));
        let seen = Rc::new(RefCell::new(Vec::new()));
        for value in 0..40u8 {
            let data = Buffer::copy_of(&[value; 512]);
            let write = Operation::Write { start: Lba(3), data, durability: Durability::Volatile };
            device.submit(write, Box::new(|written| assert!(written.is_ok())));
            let seen = Rc::clone(&seen);
            let note = move |read: Outcome| match read.unwrap().value {
                Answer::Data(data) => seen.borrow_mut().push((value, data[0])),
                other => panic!("{other:?}"),
            };
            let read = Operation::Read(SectorRange::new(Lba(3), 1));
            device.submit(read, Box::new(note));
        }
        let director = world.director();
        let (hold, victim) = (Rc::clone(&disk), Rc::clone(&process));
        world
            .run(Duration::from_secs(1), async move {
                director.sleep(Duration::from_millis(100)).await;
                let data = Buffer::copy_of(&[99; 512]);
                let write = device.write(Lba(4), data, Durability::Volatile);
                drop((write, device));
                victim.kill();
                director.sleep(Duration::from_millis(100)).await;
            })
            .unwrap();
        let seen = seen.borrow();
        assert_eq!(seen.len(), 40, "{way:?}");
        assert!(seen.iter().all(|(written, read)| written == read), "{way:?}: {seen:?}");
        let after = hold.peek(SectorRange::new(Lba(4), 1))[0];
        assert_eq!(after == 99, done_after_kill, "{way:?}");
    }
}

/// With a queue in the model, too, answers wait for a disk that is stuck, and never come once the power
/// went.
#[test]
fn a_disk_with_a_queue_takes_its_time_and_faults_stay() {
    let world = World::new(7, false);
    let disk = Disk::new(&world, "d", 1 << 30);
    disk.set_model(Model::Spinning(service::Spinning::HARD_DISK));
    let (device, director) = (disk.open(), world.director());
    let (hold, timeline) = (Rc::clone(&disk), Rc::clone(world.timeline()));
    let (took, stuck, answers) = world
        .run(Duration::from_secs(60), async move {
            let write = |value| {
                let data = Buffer::copy_of(&[value; 4096]);
                device.write(Lba(1 << 20), data, Durability::Durable)
            };
            let begin = timeline.now();
            write(1).await.unwrap();
            let took = timeline.now().since(begin);
            hold.stick_for(Duration::from_secs(3));
            let begin = timeline.now();
            write(2).await.unwrap();
            let stuck = timeline.now().since(begin);
            let answers = Rc::new(Cell::new(0));
            let count = Rc::clone(&answers);
            let data = Buffer::copy_of(&[3; 4096]);
            let start = Lba(1 << 20);
            let cut = Operation::Write { start, data, durability: Durability::Durable };
            device.submit(cut, Box::new(move |_| count.set(count.get() + 1)));
            director.sleep(Duration::from_millis(1)).await;
            hold.cut_power(Survival::None);
            director.sleep(Duration::from_secs(1)).await;
            (took, stuck, answers.get())
        })
        .unwrap();
    assert!(took > Duration::from_millis(1) && took < Duration::from_millis(30), "{took:?}");
    assert_eq!((stuck, answers), (Duration::from_secs(3), 0));
    assert_eq!(disk.peek(SectorRange::new(Lba(1 << 20), 1))[0], 2);
}

//! Settings against a disk that is only pretended, and files for `/sys`.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn the_standby_timer_has_its_steps() {
    for (seconds, timer) in [
        (0, Some(0)),
        (1, Some(1)),
        (5, Some(1)),
        (6, Some(2)),
        (600, Some(120)),
        (1200, Some(240)),
        (1201, Some(252)),
        (1260, Some(252)),
        (1261, Some(241)),
        (1800, Some(241)),
        (1801, Some(242)),
        (3600, Some(242)),
        (19_800, Some(251)),
        (19_801, None),
        (u64::MAX, None),
    ] {
        let found = StandbyTimer::at_least(Duration::from_secs(seconds));
        assert_eq!(found.map(StandbyTimer::raw), timer, "{seconds} s");
    }
    let little = StandbyTimer::at_least(Duration::from_millis(5001));
    assert_eq!(little.map(StandbyTimer::raw), Some(2));
}

#[test]
fn error_recovery_counts_in_tenths() {
    for (millis, tenths) in
        [(0, Some(0)), (1, Some(1)), (7000, Some(70)), (6_553_500, Some(65_535))]
    {
        let found = RecoveryLimit::at_least(Duration::from_millis(millis));
        assert_eq!(found.map(RecoveryLimit::raw), tenths);
    }
    assert_eq!(RecoveryLimit::at_least(Duration::from_millis(6_553_501)), None);
}

/// A disk that does what it is told, or says so only.
struct Fake {
    obeys: bool,
    has_cache: bool,
    state: std::sync::Mutex<(bool, Vec<AtaCommand>)>,
}

impl Fake {
    fn new(has_cache: bool, obeys: bool, cache: bool) -> std::sync::Arc<Fake> {
        let state = std::sync::Mutex::new((cache, Vec::new()));
        std::sync::Arc::new(Fake { obeys, has_cache, state })
    }

    fn cache(&self) -> bool {
        self.state.lock().unwrap().0
    }

    /// Commands but for IDENTIFY.
    fn orders(&self) -> Vec<AtaCommand> {
        let all = self.state.lock().unwrap().1.clone();
        all.into_iter().filter(|order| *order != AtaCommand::identify()).collect()
    }
}

impl crate::ata::Way for Fake {
    fn send(&self, command: &AtaCommand, _limit: Duration) -> io::Result<crate::ata::ScsiAnswer> {
        let mut state = self.state.lock().unwrap();
        state.1.push(command.clone());
        let mut data = Vec::new();
        if *command == AtaCommand::identify() {
            data = vec![0; 512];
            let cache = if self.has_cache { 0x20 } else { 0 };
            for (word, value) in [
                (49usize, 0x2000u16),
                (82, 0x0008 | cache),
                (83, 0x4000),
                (85, if state.0 { cache } else { 0 }),
                (206, 0x0009),
            ] {
                data[word * 2..word * 2 + 2].copy_from_slice(&value.to_le_bytes());
            }
        }
        for on in [true, false] {
            if self.obeys && *command == AtaCommand::set_write_cache(on) {
                state.0 = on;
            }
        }
        let good = (0, 0, 0, Vec::new());
        // SCT for writing isn't taken.
        let refused = *command == AtaCommand::set_error_recovery(true, 70);
        let (status, host_status, driver_status, sense) = match refused {
            true => (2, 0, 8, vec![0x70, 0, 5, 0, 0, 0, 0, 10, 4, 0x51, 0x40, 0, 0x21, 4]),
            false => good,
        };
        Ok(crate::ata::ScsiAnswer { status, host_status, driver_status, sense, data })
    }
}

/// Runs `work` on a drive behind whose directory in `/sys` are these files.
fn with_drive<T: 'static, F: Future<Output = T> + 'static>(
    fake: &std::sync::Arc<Fake>,
    directory: &Path,
    work: impl FnOnce(Drive) -> F + 'static,
) -> T {
    let (mut reactor, handle) = crate::Reactor::new().unwrap();
    let whole = WholeDisk {
        name: "sda".into(),
        path: "/dev/sda".into(),
        directory: directory.to_owned(),
        is_partition: false,
        may_be_ata: true,
    };
    let turn = crate::ata::Turn::new(&handle);
    let way = std::sync::Arc::clone(fake) as std::sync::Arc<dyn crate::ata::Way>;
    let disk = AtaDisk { way, turn: turn.clone(), whole: whole.clone() };
    let working = async move {
        let identify = disk.identify().await.unwrap();
        work(Drive { whole, ata: Some((disk, identify)), turn }).await
    };
    reactor.run_until(working).unwrap()
}

/// What becomes of the order, and whether the disk has a cache then.
fn switch(fake: &std::sync::Arc<Fake>, kernel: &str, on: bool) -> (Result<(), String>, bool) {
    let dir = sys(&[("queue/write_cache", kernel), ("device/rescan", "")]);
    let result = with_drive(fake, dir.path(), move |mut drive| async move {
        drive.set_write_cache(on).await.map_err(|trouble| trouble.0)
    });
    (result, fake.cache())
}

#[test]
fn a_cache_is_on_only_with_the_kernels_knowledge() {
    // The kernel sees it.
    assert_eq!(switch(&Fake::new(true, true, false), "write back\n", true), (Ok(()), true));
    // It doesn't: back again.
    let blind = Fake::new(true, true, false);
    let (result, cache) = switch(&blind, "write through\n", true);
    assert!(result.unwrap_err().contains("off again") && !cache);
    let off_on = [AtaCommand::set_write_cache(true), AtaCommand::set_write_cache(false)];
    assert_eq!(blind.orders(), off_on);
    // A kernel that still flushes a disk without a cache does no harm.
    assert_eq!(switch(&Fake::new(true, true, true), "write back\n", false), (Ok(()), false));
}

#[test]
fn a_disk_that_only_says_so_is_found_out() {
    let (result, cache) = switch(&Fake::new(true, false, true), "write back\n", false);
    assert!(result.unwrap_err().contains("did nothing") && cache);
    let without = Fake::new(false, true, false);
    assert_eq!(switch(&without, "write through\n", false), (Ok(()), false));
    assert!(switch(&without, "write through\n", true).0.unwrap_err().contains("no write cache"));
    assert!(without.orders().is_empty(), "nothing to send");
}

#[test]
fn timers_reach_the_disk_and_its_refusals_come_back() {
    let fake = Fake::new(true, true, true);
    let dir = sys(&[]);
    let refusal = with_drive(&fake, dir.path(), |drive| async move {
        let minutes = StandbyTimer::at_least(Duration::from_secs(1200)).unwrap();
        assert!(drive.set_spin_down(minutes).await.is_ok());
        let limit = RecoveryLimit::at_least(Duration::from_secs(7)).unwrap();
        drive.set_error_recovery(limit).await.err().map(|trouble| trouble.0)
    });
    let orders = [
        AtaCommand::set_standby_timer(240),
        AtaCommand::set_error_recovery(false, 70),
        AtaCommand::set_error_recovery(true, 70),
    ];
    assert_eq!(fake.orders(), orders);
    assert_eq!(refusal.unwrap(), "the disk refuses it (status 0x51, error 0x04)");
}

/// A disk's directory in `/sys`, of files that just keep what is written.
fn sys(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

#[test]
fn the_kernels_switch_is_used_where_there_is_one() {
    let name = "device/scsi_disk/0:0:0:0/cache_type";
    let dir = sys(&[(name, "write back\n")]);
    let files = CacheFiles::of(dir.path());
    files.set_cache_type(true).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), "write back\n", "untouched");
    files.set_cache_type(false).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), "write through");
    assert!(CacheFiles::of(sys(&[]).path()).set_cache_type(true).is_err());
}

#[test]
fn the_kernel_must_know_of_a_cache() {
    let dir = sys(&[("queue/write_cache", "write through\n"), ("device/rescan", "")]);
    let files = CacheFiles::of(dir.path());
    assert!(files.kernel_learns(true).is_err());
    files.kernel_learns(false).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("device/rescan")).unwrap(), "1");
}

#[test]
fn a_cache_that_stays_is_not_called_gone() {
    let dir = sys(&[("queue/write_cache", "write back\n")]);
    let files = CacheFiles::of(dir.path());
    assert!(files.set_queue_view(false).is_err());
    assert!(files.set_queue_view(true).is_ok());
    assert_eq!(fs::read_to_string(dir.path().join("queue/write_cache")).unwrap(), "write back\n");
    let through = sys(&[("queue/write_cache", "write through\n")]);
    let files = CacheFiles::of(through.path());
    assert!(files.set_queue_view(false).is_ok());
    assert!(files.set_queue_view(true).is_ok());
    let text = fs::read_to_string(through.path().join("queue/write_cache")).unwrap();
    assert_eq!(text, "write back");
}

#[test]
fn what_is_no_disk_is_refused_with_the_reason() {
    let (mut reactor, handle) = crate::Reactor::new().unwrap();
    let disks = AtaDisks::new(&handle);
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_owned();
    let settings = DriveSettings { write_cache: Some(true), ..DriveSettings::default() };
    let refusals = reactor.run_until(async move { apply(&disks, &path, &settings).await }).unwrap();
    assert_eq!(refusals.len(), 1);
    assert_eq!(refusals[0].setting, "match");
}

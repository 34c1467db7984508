//! What to do next about a volume's device, mount and FTP: the decision, without the doing.
//!
//! The order is a promise: FTP runs only on a mount, a mount only on a device of the present engine.
//! A device whose engine is gone, or whose pool lost its lease, is torn down hard (the file system is
//! shut down first, so that nothing is written or believed any more); otherwise cleanly. One step is
//! decided at a time from what is, so a failure or a crash between steps needs no plan of its own.

use crate::settings::{FtpSetting, MountSetting};

/// An engine process, told apart from its predecessors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EngineGeneration(pub u64);

/// What should be, by the pool's own word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The engine that serves the volume now; none while it is suspended, fenced or not in sight.
    pub served_by: Option<EngineGeneration>,
    /// Whether it should have a block device also without a mount.
    pub device: bool,
    /// Where it should be mounted.
    pub mount: Option<MountSetting>,
    /// Whether the mount should be served.
    pub ftp: Option<FtpSetting>,
}

/// What is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// The engine under which the block device was attached.
    pub attached: Option<EngineGeneration>,
    /// The mount, as it was made.
    pub mount: Option<MountSetting>,
    /// The FTP server, as it was started.
    pub ftp: Option<FtpSetting>,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Let no client begin anything any more, then end the server.
    StopFtp,
    /// Take the file system away whose device is gone: nothing is written any more, those who hold
    /// files get errors.
    ShutDownFs,
    /// Unmount in order: everything is written back.
    Unmount,
    /// Give a block device back in order.
    Detach,
    /// Give a block device back whose engine is gone or may not be used: its requests are aborted.
    Abort,
    /// Make the block device.
    Attach,
    /// Mount as wanted.
    Mount,
    /// Serve the mount.
    StartFtp,
}

/// The next step towards what is wanted; `None` when all is as it should be.
pub fn next_step(wanted: &Wanted, actual: &Actual) -> Option<Step> {
    let device_good = actual.attached.is_some() && actual.attached == wanted.served_by;
    let device_dead = actual.attached.is_some() && !device_good;
    let mount_right = actual.mount.is_some() && actual.mount == wanted.mount && device_good;
    let ftp_right = actual.ftp.is_some() && actual.ftp == wanted.ftp && mount_right;

    if actual.ftp.is_some() && !ftp_right {
        return Some(Step::StopFtp);
    }
    if actual.mount.is_some() && !mount_right {
        // A mount without its device was left by a predecessor: its device is just as gone.
        let hard = device_dead || actual.attached.is_none();
        return Some(if hard { Step::ShutDownFs } else { Step::Unmount });
    }
    if device_dead {
        return Some(Step::Abort);
    }
    let device_wanted = wanted.device || wanted.mount.is_some();
    if actual.attached.is_some() && !device_wanted {
        return Some(Step::Detach);
    }
    if wanted.served_by.is_none() || !device_wanted {
        return None;
    }
    if actual.attached.is_none() {
        return Some(Step::Attach);
    }
    wanted.mount.as_ref()?;
    if actual.mount.is_none() {
        return Some(Step::Mount);
    }
    (wanted.ftp.is_some() && actual.ftp.is_none()).then_some(Step::StartFtp)
}

/// What `actual` is after `step` was done.
pub fn after(step: Step, wanted: &Wanted, actual: &Actual) -> Actual {
    let mut next = actual.clone();
    match step {
        Step::StopFtp => next.ftp = None,
        Step::ShutDownFs | Step::Unmount => next.mount = None,
        Step::Detach | Step::Abort => next.attached = None,
        Step::Attach => next.attached = wanted.served_by,
        Step::Mount => next.mount = wanted.mount.clone(),
        Step::StartFtp => next.ftp = wanted.ftp.clone(),
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::FsType;

    fn mount(path: &str) -> Option<MountSetting> {
        Some(MountSetting { path: path.into(), fstype: FsType::Ext4, options: Vec::new() })
    }

    fn steps(wanted: &Wanted, actual: Actual) -> (Vec<Step>, Actual) {
        let (mut all, mut actual) = (Vec::new(), actual);
        while let Some(step) = next_step(wanted, &actual) {
            all.push(step);
            actual = after(step, wanted, &actual);
            assert!(all.len() < 20, "does not converge: {wanted:?} {all:?}");
        }
        (all, actual)
    }

    fn served(generation: u64) -> Wanted {
        Wanted {
            served_by: Some(EngineGeneration(generation)),
            device: false,
            mount: mount("/srv/a"),
            ftp: Some(FtpSetting::default()),
        }
    }

    #[test]
    fn comes_up_in_order() {
        let (all, _) = steps(&served(1), Actual::default());
        assert_eq!(all, [Step::Attach, Step::Mount, Step::StartFtp]);
    }

    #[test]
    fn a_new_engine_means_shut_down_and_anew() {
        let (_, up) = steps(&served(1), Actual::default());
        let (all, _) = steps(&served(2), up);
        assert_eq!(all[..3], [Step::StopFtp, Step::ShutDownFs, Step::Abort]);
        assert_eq!(all[3..], [Step::Attach, Step::Mount, Step::StartFtp]);
    }

    #[test]
    fn a_lost_lease_leaves_nothing_behind() {
        let (_, up) = steps(&served(1), Actual::default());
        let (all, down) = steps(&Wanted { served_by: None, ..served(1) }, up);
        assert_eq!(all, [Step::StopFtp, Step::ShutDownFs, Step::Abort]);
        assert_eq!(down, Actual::default());
    }

    #[test]
    fn an_unmount_that_is_asked_for_is_clean() {
        let (_, up) = steps(&served(1), Actual::default());
        let (all, _) = steps(&Wanted { mount: None, ..served(1) }, up);
        assert_eq!(all, [Step::StopFtp, Step::Unmount, Step::Detach]);
    }

    #[test]
    fn a_device_alone_stays_when_the_mount_goes() {
        let bare = Wanted { device: true, mount: None, ftp: None, ..served(1) };
        assert_eq!(steps(&bare, Actual::default()).0, [Step::Attach]);
        let (_, up) = steps(&served(1), Actual::default());
        assert_eq!(steps(&bare, up).0, [Step::StopFtp, Step::Unmount]);
    }

    #[test]
    fn moving_a_mount_keeps_the_device() {
        let (_, up) = steps(&served(1), Actual::default());
        let (all, _) = steps(&Wanted { mount: mount("/srv/b"), ..served(1) }, up);
        assert_eq!(all, [Step::StopFtp, Step::Unmount, Step::Mount, Step::StartFtp]);
    }

    /// Every combination of wishes and states: it converges, FTP never starts without a mount on a
    /// device of the present engine, and a mount on a dead device is never unmounted unwarned.
    #[test]
    fn every_state_converges_and_keeps_the_order() {
        let generations = [None, Some(EngineGeneration(1)), Some(EngineGeneration(2))];
        let mounts = [None, mount("/srv/a"), mount("/srv/b")];
        let listen = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 21)));
        let ftps = [None, Some(FtpSetting::default()), Some(FtpSetting { listen })];
        let mut wishes = Vec::new();
        let mut states = Vec::new();
        for generation in generations {
            for mount in &mounts {
                for ftp in &ftps {
                    for device in [false, true] {
                        wishes.push(Wanted {
                            served_by: generation,
                            device,
                            mount: mount.clone(),
                            ftp: ftp.clone(),
                        });
                    }
                    states.push(Actual {
                        attached: generation,
                        mount: mount.clone(),
                        ftp: ftp.clone(),
                    });
                }
            }
        }
        for wanted in &wishes {
            for state in &states {
                check(wanted, state);
            }
        }
    }

    fn check(wanted: &Wanted, start: &Actual) {
        let (mut actual, mut count) = (start.clone(), 0);
        while let Some(step) = next_step(wanted, &actual) {
            let device_good = actual.attached.is_some() && actual.attached == wanted.served_by;
            match step {
                Step::StartFtp => assert!(
                    actual.mount == wanted.mount
                        && actual.mount.is_some()
                        && actual.attached == wanted.served_by
                ),
                Step::Mount => assert!(actual.attached.is_some() && actual.mount.is_none()),
                Step::Unmount => assert!(actual.ftp.is_none() && device_good),
                Step::ShutDownFs => assert!(actual.ftp.is_none() && !device_good),
                Step::Detach => assert!(actual.mount.is_none() && device_good),
                Step::Abort => assert!(actual.mount.is_none() && !device_good),
                Step::Attach => assert!(actual.attached.is_none() && actual.mount.is_none()),
                Step::StopFtp => assert!(actual.ftp.is_some()),
            }
            actual = after(step, wanted, &actual);
            count += 1;
            assert!(count <= 8, "{wanted:?} from {start:?}");
        }
        let up = wanted.served_by.is_some() && wanted.mount.is_some();
        assert_eq!(actual.mount, if up { wanted.mount.clone() } else { None });
        assert_eq!(actual.ftp, if up { wanted.ftp.clone() } else { None });
        let device_up = up || (wanted.device && wanted.served_by.is_some());
        assert_eq!(actual.attached, if device_up { wanted.served_by } else { None });
    }
}

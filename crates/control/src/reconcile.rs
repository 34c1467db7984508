//! What to do next about a volume's device, mount and FTP: the decision, without the doing.
//!
//! The order is a promise: FTP runs only on a mount, a mount only on a device that the present engine
//! serves. A device that it doesn't serve any more, whose pool lost its lease, or that was found dead is
//! torn down hard (the file system is shut down first, so that nothing is written or believed any more);
//! otherwise cleanly. One step is decided at a time from what is, so a failure or a crash between steps
//! needs no plan of its own.
//!
//! An engine may end one device and go on (its lease was gone for a moment), so devices are told apart
//! one by one, not by their engine alone.

use serde::{Deserialize, Serialize};

use crate::settings::{FtpSetting, MountSetting};
use block::VolumeName;

/// An engine process, told apart from its predecessors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EngineInstance(pub u64);

/// The engine's end of one block device: never the same again, once it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// The engine.
    pub engine: EngineInstance,
    /// Which of its attachments; they are counted.
    pub number: u64,
}

impl Attachment {
    /// Of a device that no engine serves: instances are never 0.
    pub const DEAD: Attachment = Attachment { engine: EngineInstance(0), number: 0 };
}

/// What an engine serves to this machine's kernel at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachments {
    /// The engine.
    pub engine: EngineInstance,
    /// The number that its next attachment gets: this is no word on any from there on.
    pub next: u64,
    /// The volumes that are served, each through one attachment.
    pub served: Vec<AttachedVolume>,
}

/// One of [`Attachments`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedVolume {
    /// The volume.
    pub volume: VolumeName,
    /// The attachment's number.
    pub number: u64,
    /// Requests that were answered with an error since it began.
    pub errors: u64,
}

impl Attachments {
    /// What they say of one volume.
    pub fn service_of(&self, volume: &VolumeName) -> Service {
        let served = self.served.iter().find(|served| served.volume == *volume);
        Service {
            engine: self.engine,
            attachment: served.map(|served| served.number),
            errors: served.map_or(0, |served| served.errors),
            next: self.next,
        }
    }
}

/// The word of an engine that serves a volume: which attachment is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// The engine.
    pub engine: EngineInstance,
    /// The number of the attachment that was alive.
    pub attachment: Option<u64>,
    /// Requests that were answered with an error through it.
    pub errors: u64,
    /// The number that the next attachment was to get.
    pub next: u64,
}

impl Service {
    /// Whether the attachment is alive as far as this goes: the word may be older than it.
    pub fn keeps(&self, attachment: Attachment) -> bool {
        attachment.engine == self.engine
            && (attachment.number >= self.next || self.attachment == Some(attachment.number))
    }
}

/// What should be, by the pool's own word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The engine that serves the volume now, and what it says of its attachment; none while it is
    /// suspended, fenced or not present.
    pub served_by: Option<Service>,
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
    /// The block device's attachment.
    pub attached: Option<Attachment>,
    /// The mount, as it was made.
    pub mount: Option<MountSetting>,
    /// The FTP server, as it was started.
    pub ftp: Option<FtpSetting>,
    /// What a look at the things themselves found dead.
    pub fault: Option<Fault>,
}

/// What is dead; all that stands on it falls with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The FTP server has ended.
    Ftp,
    /// The mount is no longer where it was made; its device is well.
    Mount,
    /// The device, or the file system on it, gives errors or is gone.
    Device,
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

impl Step {
    /// For people: what is being done.
    pub fn doing(self) -> &'static str {
        match self {
            Step::StopFtp => "ending its FTP server",
            Step::ShutDownFs => "shutting its file system down",
            Step::Unmount => "unmounting it",
            Step::Detach => "detaching its block device",
            Step::Abort => "clearing its dead block device away",
            Step::Attach => "making its block device",
            Step::Mount => "mounting it",
            Step::StartFtp => "starting its FTP server",
        }
    }
}

/// What of a volume is there, alive, and as wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The block device.
    pub device: bool,
    /// The mount.
    pub mount: bool,
    /// The FTP server.
    pub ftp: bool,
}

/// What stands.
pub fn standing(wanted: &Wanted, actual: &Actual) -> Standing {
    let kept = actual
        .attached
        .zip(wanted.served_by)
        .is_some_and(|(device, service)| service.keeps(device));
    let device = kept && actual.fault != Some(Fault::Device);
    let mount = device
        && actual.mount.is_some()
        && actual.mount == wanted.mount
        && actual.fault != Some(Fault::Mount);
    let ftp = mount
        && actual.ftp.is_some()
        && actual.ftp == wanted.ftp
        && actual.fault != Some(Fault::Ftp);
    Standing { device, mount, ftp }
}

/// The next step towards what is wanted; `None` when all is as it should be.
pub fn next_step(wanted: &Wanted, actual: &Actual) -> Option<Step> {
    let Standing { device: device_good, mount: mount_right, ftp: ftp_right } =
        standing(wanted, actual);
    let device_dead = actual.attached.is_some() && !device_good;

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

/// What `actual` is after `step` was done; `made` is the attachment that [`Step::Attach`] made.
pub fn after(step: Step, wanted: &Wanted, actual: &Actual, made: Option<Attachment>) -> Actual {
    let mut next = actual.clone();
    // A fault ends with the thing that it is about.
    let healed = match step {
        Step::StopFtp => {
            next.ftp = None;
            Fault::Ftp
        }
        Step::StartFtp => {
            next.ftp = wanted.ftp.clone();
            Fault::Ftp
        }
        Step::ShutDownFs | Step::Unmount => {
            next.mount = None;
            Fault::Mount
        }
        Step::Mount => {
            next.mount = wanted.mount.clone();
            Fault::Mount
        }
        Step::Detach | Step::Abort => {
            next.attached = None;
            Fault::Device
        }
        Step::Attach => {
            next.attached = made;
            Fault::Device
        }
    };
    next.fault = next.fault.filter(|fault| *fault > healed);
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::FsType;

    fn mount(path: &str) -> Option<MountSetting> {
        Some(MountSetting { path: path.into(), fstype: FsType::Ext4, options: Vec::new() })
    }

    fn attachment(engine: u64, number: u64) -> Attachment {
        Attachment { engine: EngineInstance(engine), number }
    }

    fn service(engine: u64, attachment: Option<u64>, next: u64) -> Service {
        Service { engine: EngineInstance(engine), attachment, errors: 0, next }
    }

    /// What the engine makes of a request to attach.
    fn made(wanted: &Wanted) -> Option<Attachment> {
        wanted.served_by.map(|service| Attachment { engine: service.engine, number: service.next })
    }

    fn steps(wanted: &Wanted, actual: Actual) -> (Vec<Step>, Actual) {
        let (mut all, mut actual) = (Vec::new(), actual);
        while let Some(step) = next_step(wanted, &actual) {
            all.push(step);
            actual = after(step, wanted, &actual, made(wanted));
            assert!(all.len() < 20, "does not converge: {wanted:?} {all:?}");
        }
        (all, actual)
    }

    fn served(instance: u64) -> Wanted {
        Wanted {
            served_by: Some(service(instance, None, 1)),
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

    const HARD: [Step; 3] = [Step::StopFtp, Step::ShutDownFs, Step::Abort];
    const ANEW: [Step; 3] = [Step::Attach, Step::Mount, Step::StartFtp];

    /// The same engine, but it has ended the attachment: its lease was gone for a moment.
    #[test]
    fn an_attachment_that_the_engine_ended_is_made_anew() {
        let (_, up) = steps(&served(1), Actual::default());
        assert_eq!(up.attached, Some(attachment(1, 1)));
        for alive in [None, Some(2)] {
            let ended = Wanted { served_by: Some(service(1, alive, 3)), ..served(1) };
            let (all, again) = steps(&ended, up.clone());
            assert_eq!((&all[..3], &all[3..]), (&HARD[..], &ANEW[..]), "{alive:?}");
            assert_eq!(again.attached, Some(attachment(1, 3)));
        }
    }

    #[test]
    fn a_word_from_before_the_attachment_does_not_condemn_it() {
        let (_, up) = steps(&served(1), Actual::default());
        for word in [service(1, None, 1), service(1, Some(1), 2), service(1, Some(1), 9)] {
            let wanted = Wanted { served_by: Some(word), ..served(1) };
            assert_eq!(next_step(&wanted, &up), None, "{word:?}");
        }
    }

    #[test]
    fn what_is_found_dead_falls_with_all_that_stands_on_it() {
        let (_, up) = steps(&served(1), Actual::default());
        let of = |fault| {
            let (all, again) = steps(&served(1), Actual { fault: Some(fault), ..up.clone() });
            assert_eq!(again.fault, None);
            all
        };
        assert_eq!(of(Fault::Ftp), [Step::StopFtp, Step::StartFtp]);
        let mount = [Step::StopFtp, Step::Unmount, Step::Mount, Step::StartFtp];
        assert_eq!(of(Fault::Mount), mount);
        assert_eq!(of(Fault::Device), [HARD, ANEW].concat());
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
    /// device that the present engine serves, and a mount on a dead device is never unmounted unwarned.
    #[test]
    fn every_state_converges_and_keeps_the_order() {
        let services = [
            None,
            Some(service(1, None, 1)),
            Some(service(1, Some(1), 2)),
            Some(service(1, None, 2)),
            Some(service(1, Some(2), 3)),
            Some(service(2, None, 1)),
        ];
        let devices =
            [None, Some(Attachment::DEAD), Some(attachment(1, 1)), Some(attachment(1, 2))];
        let faults = [None, Some(Fault::Ftp), Some(Fault::Mount), Some(Fault::Device)];
        let mounts = [None, mount("/srv/a"), mount("/srv/b")];
        let listen = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 21)));
        let ftps = [None, Some(FtpSetting::default()), Some(FtpSetting { listen })];
        let mut wishes = Vec::new();
        let mut states = Vec::new();
        for mount in &mounts {
            for ftp in &ftps {
                for served_by in services {
                    for device in [false, true] {
                        let (mount, ftp) = (mount.clone(), ftp.clone());
                        wishes.push(Wanted { served_by, device, mount, ftp });
                    }
                }
                for attached in devices {
                    for fault in faults {
                        let (mount, ftp) = (mount.clone(), ftp.clone());
                        states.push(Actual { attached, mount, ftp, fault });
                    }
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
        let kept = |actual: &Actual| match (actual.attached, wanted.served_by) {
            (Some(device), Some(service)) => service.keeps(device),
            _ => false,
        };
        let good = |actual: &Actual| kept(actual) && actual.fault != Some(Fault::Device);
        let started_well = start.fault.is_none() && good(start) && start.mount == wanted.mount;
        while let Some(step) = next_step(wanted, &actual) {
            match step {
                Step::StartFtp => {
                    assert!(actual.mount == wanted.mount && actual.mount.is_some() && good(&actual))
                }
                Step::Mount => assert!(good(&actual) && actual.mount.is_none()),
                Step::Unmount => assert!(actual.ftp.is_none() && good(&actual)),
                Step::ShutDownFs => assert!(actual.ftp.is_none() && !good(&actual)),
                Step::Detach => assert!(actual.mount.is_none() && good(&actual)),
                Step::Abort => assert!(actual.mount.is_none() && !good(&actual)),
                Step::Attach => assert!(actual.attached.is_none() && actual.mount.is_none()),
                Step::StopFtp => assert!(actual.ftp.is_some()),
            }
            let gentle =
                matches!(step, Step::StopFtp | Step::StartFtp | Step::Detach | Step::Mount);
            assert!(gentle || !started_well, "{step:?} to what is well: {wanted:?} {start:?}");
            actual = after(step, wanted, &actual, made(wanted));
            count += 1;
            assert!(count <= 8, "{wanted:?} from {start:?}");
        }
        let up = wanted.served_by.is_some() && wanted.mount.is_some();
        assert_eq!(actual.mount, if up { wanted.mount.clone() } else { None });
        assert_eq!(actual.ftp, if up { wanted.ftp.clone() } else { None });
        let device_up = up || (wanted.device && wanted.served_by.is_some());
        assert_eq!(actual.attached.is_some(), device_up, "{wanted:?} {start:?}");
        assert!(!device_up || good(&actual));
    }
}

//! What goes wrong with devices and file systems, in the API's words: what failed, on what, and what to
//! do.

use std::path::Path;

use block::{FsType, VolumeName};
use control::api::{ApiError, ErrorCode};
use control::reconcile::Fault;
use frontend::attach::AttachError;
use frontend::filesystem::{Condition, Contents, FilesystemError, Twin};

use super::platform::{Finding, Trouble};

/// A device that is made anew.
pub fn dead(name: &VolumeName, why: &str) -> Finding {
    let error = ApiError::new(ErrorCode::Io, format!("{name} can't be used: {why}"))
        .remedy("it is made anew by itself; what had files of it open must open them again");
    Finding::Fault(Fault::Device, error.into())
}

/// What the condition of a mount means.
pub fn judge(name: &VolumeName, path: &Path, condition: Condition) -> Finding {
    let at = path.display();
    match condition {
        Condition::Well => Finding::Well,
        Condition::Dead(why) | Condition::Stopped(why) => dead(name, &why),
        Condition::NotMounted(other) => {
            let instead = other.map_or_else(String::new, |other| format!(", {other} is"));
            let error =
                ApiError::new(ErrorCode::Io, format!("{name} is no longer mounted at {at}{instead}"))
                    .remedy(format!(
                        "it is mounted again by itself; to end the mount: etherpool volume unmount {name}"
                    ));
            Finding::Fault(Fault::Mount, error.into())
        }
        Condition::Damaged(why) => Finding::Remark(
            ApiError::new(
                ErrorCode::Io,
                format!("the file system of {name} is damaged and takes no writes: {why}"),
            )
            .remedy(format!(
                "unmount it (etherpool volume unmount {name}), look (etherpool volume check {name}), \
                 have it repaired by its own tools, then mount it again"
            ))
            .into(),
        ),
        Condition::ReadOnly => Finding::Remark(
            ApiError::new(ErrorCode::Io, format!("somebody made {at} read-only"))
                .remedy(format!("mount -o remount,rw {at}"))
                .into(),
        ),
    }
}

/// A failed attachment in the API's words.
pub fn attach_trouble(error: AttachError) -> Trouble {
    let (code, remedy) = match &error {
        AttachError::AlreadyMounted(directory) => (
            ErrorCode::Busy,
            format!("umount {}; it is tried again by itself", directory.display()),
        ),
        AttachError::Busy { path } => (
            ErrorCode::Busy,
            format!("see who uses it: fuser -vm {}; it is tried again by itself", path.display()),
        ),
        AttachError::NotAttached(_) => {
            (ErrorCode::NotFound, "it is tried again by itself: see `etherpool status`".to_owned())
        }
        AttachError::NoFreeLoop => (
            ErrorCode::Unavailable,
            "give some back that nobody uses (losetup --list); it is tried again by itself"
                .to_owned(),
        ),
        AttachError::System { source, .. } => (ErrorCode::Io, remedy_of(source)),
    };
    ApiError::new(code, error.to_string()).remedy(remedy).into()
}

/// What to do about an error of the system.
fn remedy_of(source: &std::io::Error) -> String {
    match rustix::io::Errno::from_io_error(source) {
        Some(rustix::io::Errno::NOENT | rustix::io::Errno::NODEV) => {
            "see that the kernel has the modules fuse and loop (modprobe fuse loop)".to_owned()
        }
        Some(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => {
            "run the supervisor as root, with CAP_SYS_ADMIN".to_owned()
        }
        _ => "the kernel's log (dmesg) says more; it is tried again by itself".to_owned(),
    }
}

/// A failed operation on a file system in the API's words. What [`ErrorCode::Io`] alone says nothing
/// about is left to who asked.
pub fn filesystem_trouble(error: FilesystemError) -> Trouble {
    let (code, remedy) = match &error {
        FilesystemError::NotBlank { .. } => (ErrorCode::Refused, None),
        FilesystemError::MountPoint { remedy, .. } => (ErrorCode::Refused, Some(remedy.clone())),
        FilesystemError::OtherMount { target, .. } => {
            (ErrorCode::Busy, Some(format!("choose another directory, or end that mount: umount {}", target.display())))
        }
        FilesystemError::NotMounted(_) => {
            (ErrorCode::NotFound, Some("see `etherpool status`".to_owned()))
        }
        FilesystemError::Busy { .. } => {
            (ErrorCode::Busy, Some("end what uses it, then try again".to_owned()))
        }
        FilesystemError::Timeout { .. } => (
            ErrorCode::Io,
            Some("see `etherpool status` whether its pool answers, then try again".to_owned()),
        ),
        FilesystemError::TooSmall { fstype, .. } => (
            ErrorCode::Invalid,
            Some(format!("grow the volume (etherpool volume extend), or choose another file system than {fstype}")),
        ),
        FilesystemError::NeedsReplay { .. } => (
            ErrorCode::Refused,
            Some("mount it once, which replays the log, and unmount it; then check it".to_owned()),
        ),
        FilesystemError::NoDriver { fstype, .. } => (
            ErrorCode::Unavailable,
            Some(format!(
                "load the kernel's module (modprobe {fstype}), or start a kernel that has it; its file \
                 system is left as it is"
            )),
        ),
        FilesystemError::System { source, .. } if is_of_device(source) => (
            ErrorCode::Io,
            Some("its block device gave an error: see `etherpool status` and the kernel's log (dmesg)".to_owned()),
        ),
        FilesystemError::TooFull { smallest_bytes, .. } => (
            ErrorCode::Refused,
            Some(format!("the smallest size is {smallest_bytes}; or remove some of its files first")),
        ),
        FilesystemError::MissingCapability { .. }
        | FilesystemError::NotMountable { .. }
        | FilesystemError::NotKnown { .. }
        | FilesystemError::SameUuid { .. }
        | FilesystemError::NoTool(_)
        | FilesystemError::Tool { .. }
        | FilesystemError::System { .. } => (ErrorCode::Io, None),
    };
    let holders = match &error {
        FilesystemError::Busy { holders, .. } => holders.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    };
    let told = ApiError::new(code, error.to_string());
    Trouble { error: ApiError { remedy, ..told }, holders }
}

/// Whether the system's error came from the device.
fn is_of_device(source: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let of_device = [Errno::IO, Errno::NXIO, Errno::NOTCONN, Errno::NOMEDIUM, Errno::TIMEDOUT];
    Errno::from_io_error(source).is_some_and(|error| of_device.contains(&error))
}

/// That a volume isn't used as somebody thinks who wants an end of it.
pub fn not_so(name: &VolumeName, what: String) -> ApiError {
    ApiError::new(ErrorCode::NotFound, what)
        .remedy(format!("see what it is used as: etherpool volume show {name}"))
}

/// What to do about a mount that the system refused, or a file system that isn't one.
pub fn not_mountable(error: FilesystemError, name: &str) -> ApiError {
    let told = match &error {
        // People know the volume by its name, and not by the device that it has for the moment.
        FilesystemError::NotKnown { contents, .. } => {
            format!("{name} has no file system that is known here; {contents}")
        }
        other => other.to_string(),
    };
    let told = ApiError::new(ErrorCode::Io, told);
    match error {
        FilesystemError::NotMountable { contents, .. }
        | FilesystemError::NotKnown { contents, .. } => contents_trouble(told, &contents, name),
        FilesystemError::SameUuid { fstype, whose, .. } => same_uuid(told, fstype, &whose, name),
        _ => told,
    }
}

/// What to do about a copy of a file system that is in use.
fn same_uuid(told: ApiError, fstype: FsType, whose: &Twin, name: &str) -> ApiError {
    ApiError { code: ErrorCode::Busy, ..told }.remedy(match (whose, fstype) {
        (Twin::Held, _) => "end what holds files of the other one: `etherpool status` names what had \
                            files open when its device was lost; it is tried again by itself"
            .to_owned(),
        (Twin::MountedAt(_), FsType::Xfs) => format!(
            "it is a copy; mount it with the option nouuid (etherpool volume mount {name} DIRECTORY \
             -o nouuid), or give it a UUID of its own: xfs_admin -U generate on the block device that \
             `etherpool volume attach {name}` makes"
        ),
        (Twin::MountedAt(_), _) => format!(
            "it is a copy; unmount the other one first, or give this one a UUID of its own: btrfstune \
             -u on the block device that `etherpool volume attach {name}` makes; Linux 6.7 and later \
             mount both"
        ),
    })
}

/// What to do about a volume that can't be mounted, by what it carries. To make a file system is
/// proposed only where everything was read and nothing was found.
pub fn contents_trouble(error: ApiError, contents: &Contents, name: &str) -> ApiError {
    error.remedy(match contents {
        Contents::Blank => format!("make a file system first: etherpool volume mkfs {name}"),
        Contents::Carries { fstype: Some(_), .. } => format!(
            "look at the mount's options, and at the file system: etherpool volume check {name}"
        ),
        Contents::Carries { fstype: None, .. } => format!(
            "only ext4, xfs and btrfs are mounted; look at it with other programs on the block device that \
             `etherpool volume attach {name}` makes"
        ),
        Contents::Unreadable(_) => {
            "see `etherpool status` for what is missing, and bring it back".to_owned()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_make_a_file_system_is_proposed_for_a_blank_volume_alone() {
        let remedy = |contents: Contents| {
            let error = ApiError::new(ErrorCode::Io, "no");
            contents_trouble(error, &contents, "p/v").remedy.unwrap_or_default()
        };
        let carries = |fstype| Contents::Carries { found: "something".into(), fstype };
        assert!(remedy(Contents::Blank).contains("etherpool volume mkfs p/v"));
        for other in [carries(Some(FsType::Xfs)), carries(None), Contents::Unreadable("EIO".into())]
        {
            let remedy = remedy(other);
            assert!(!remedy.is_empty());
            for word in ["mkfs", "force", "reset"] {
                assert!(!remedy.contains(word), "{remedy}");
            }
        }
    }
}

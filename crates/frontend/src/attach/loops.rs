//! Loop devices: which are ours, how they are set up and cleared.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use block::SECTOR_BYTES;

use super::AttachError;

/// Others look for free loop devices too; this many defeats in a row are no accident.
const TRIES_MAX: usize = 64;

/// Puts a free loop device on `file`; returns its number.
pub(super) fn set_up(file: &Path, name: &str, read_only: bool) -> Result<u32, AttachError> {
    let backing = File::options()
        .read(true)
        .write(!read_only)
        .open(file)
        .map_err(|error| AttachError::system(format!("opening {}", file.display()), error))?;
    let control = File::options()
        .read(true)
        .write(true)
        .open("/dev/loop-control")
        .map_err(|error| AttachError::system("opening /dev/loop-control", error))?;
    let setup = os::ioctl::LoopSetup {
        backing: backing.as_fd(),
        block_bytes: SECTOR_BYTES as u32,
        read_only,
        name,
    };
    for _ in 0..TRIES_MAX {
        let number = os::ioctl::loop_get_free(control.as_fd())
            .map_err(|error| AttachError::system("asking for a free loop device", error))?;
        // A loop device that is set up through a descriptor for reading becomes read-only.
        let path = device_path(number);
        let device =
            File::options().read(true).write(!read_only).open(&path).map_err(|error| {
                AttachError::system(format!("opening {}", path.display()), error)
            })?;
        match os::ioctl::loop_configure(device.as_fd(), &setup) {
            Ok(()) => return Ok(number),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => {
                let what = format!("setting up {}", device_path(number).display());
                return Err(AttachError::system(what, error));
            }
        }
    }
    Err(AttachError::NoFreeLoop)
}

/// The loop devices on a volume's file, told by its path alone: the kernel's other ways to ask
/// (`LOOP_GET_STATUS64`) look at the file, and hang when the engine behind it does. Devices that are
/// leaving don't count: nothing can be done about them, and nothing need be.
pub(super) fn find(file: &Path) -> Result<Vec<u32>, AttachError> {
    let ours = |number: &u32| is_on(*number, file) && !is_leaving(*number);
    Ok(bound()?.into_iter().filter(ours).collect())
}

/// Numbers of all loop devices that have a file.
pub(super) fn bound() -> Result<Vec<u32>, AttachError> {
    let failed = |error| AttachError::system("reading /sys/block", error);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/sys/block").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("loop")?.parse().ok());
        numbers.extend(number.filter(|number| in_use(*number)));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Whether the device has a file.
fn in_use(number: u32) -> bool {
    Path::new(&format!("/sys/block/loop{number}/loop")).exists()
}

/// Whether the device was cleared while somebody had it open: it is free when they let go.
pub(super) fn is_leaving(number: u32) -> bool {
    std::fs::read_to_string(format!("/sys/block/loop{number}/loop/autoclear"))
        .is_ok_and(|value| value.trim() == "1")
}

/// The path of the device's file as it was when it was opened; only its last part when the mount
/// that it was reached through is gone.
pub(super) fn backing_file(number: u32) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let mut path = std::fs::read(format!("/sys/block/loop{number}/loop/backing_file")).ok()?;
    if path.last() == Some(&b'\n') {
        path.pop();
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(path)))
}

pub(super) fn has_direct_io(number: u32) -> bool {
    std::fs::read_to_string(format!("/sys/block/loop{number}/loop/dio"))
        .is_ok_and(|value| value.trim() == "1")
}

/// Whether the device has this file.
pub(super) fn is_on(number: u32, file: &Path) -> bool {
    backing_file(number).is_some_and(|path| path == file)
}

/// Takes the file away; a device that doesn't have it is fine.
pub(super) fn clear(number: u32, file: &Path) -> Result<(), AttachError> {
    let Some(device) = open_on(number, file)? else { return Ok(()) };
    match os::ioctl::loop_clear(device.as_fd()) {
        Err(error) if error.raw_os_error() != Some(libc::ENXIO) => {
            Err(AttachError::system(format!("clearing {}", device_path(number).display()), error))
        }
        _ => Ok(()),
    }
}

/// Keeps a device of this file that was cleared while somebody had it open.
pub(super) fn stay(number: u32, file: &Path, name: &str) -> Result<(), AttachError> {
    let Some(device) = open_on(number, file)? else { return Ok(()) };
    os::ioctl::loop_stay(device.as_fd(), name).map_err(|error| {
        AttachError::system(format!("keeping {}", device_path(number).display()), error)
    })
}

pub(super) fn set_capacity(number: u32) -> Result<(), AttachError> {
    os::ioctl::loop_set_capacity(open(number)?.as_fd()).map_err(|error| {
        AttachError::system(format!("resizing {}", device_path(number).display()), error)
    })
}

/// The size that the kernel gives the device.
pub(super) fn size_bytes(number: u32) -> Result<u64, AttachError> {
    let path = format!("/sys/block/loop{number}/size");
    let sectors = std::fs::read_to_string(&path).and_then(|text| {
        let sectors = text.trim().parse::<u64>();
        sectors.map_err(|_| std::io::Error::from(std::io::ErrorKind::InvalidData))
    });
    let sectors = sectors.map_err(|error| AttachError::system(path, error))?;
    Ok(sectors.saturating_mul(SECTOR_BYTES as u64))
}

pub(super) fn device_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

/// The number of a loop device by its path.
pub(super) fn number_of(device: &Path) -> Option<u32> {
    device.to_str()?.strip_prefix("/dev/loop")?.parse().ok()
}

/// Opens the device if it has this file. It may have become free and somebody else's since it was looked at; while it is
/// open nobody gets it.
fn open_on(number: u32, file: &Path) -> Result<Option<File>, AttachError> {
    let device = open(number)?;
    Ok(is_on(number, file).then_some(device))
}

fn open(number: u32) -> Result<File, AttachError> {
    let path = device_path(number);
    File::open(&path)
        .map_err(|error| AttachError::system(format!("opening {}", path.display()), error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_became_another_files_is_left_alone() {
        if !Path::new("/dev/loop-control").exists() || !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: no loop devices here, or not root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().canonicalize().unwrap();
        let [own, other] = ["own", "other"].map(|name| directory.join(name));
        std::fs::write(&own, [0; 1 << 16]).unwrap();
        let number = set_up(&own, "test", false).unwrap();
        clear(number, &other).unwrap();
        stay(number, &other, "stranger").unwrap();
        assert!(is_on(number, &own));
        clear(number, &own).unwrap();
        assert!(!is_on(number, &own));
    }
}

//! Which drives are there, by all their names, without opening one: who sets drives up looks often,
//! and a disk that hangs or sleeps must not be touched for that.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{Places, read_first, read_number, stable_names};

/// A drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriveSeen {
    /// Where to open it.
    pub path: PathBuf,
    /// Stable names of it.
    pub links: Vec<PathBuf>,
    /// Serial number, if known.
    pub serial: Option<String>,
    /// World-wide name, if known.
    pub wwn: Option<String>,
    /// Another number each time that a drive appears: one that was pulled and plugged in again is
    /// to be set up anew.
    pub appearance: (u64, u64),
}

/// The whole disks that hardware stands behind, by path.
pub fn drives() -> io::Result<Vec<DriveSeen>> {
    drives_in(&Places::default())
}

pub(super) fn drives_in(places: &Places) -> io::Result<Vec<DriveSeen>> {
    let links = stable_names(places);
    let mut drives = Vec::new();
    for entry in fs::read_dir(places.sys.join("block"))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(directory) = fs::canonicalize(entry.path()) else { continue };
        if !directory.join("device").exists() || read_number(&directory.join("size")) == 0 {
            continue;
        }
        let path = places.dev.join(name.replace('!', "/"));
        let own = links.iter().filter(|(target, _)| *target == path);
        drives.push(DriveSeen {
            links: own.map(|(_, link)| link.clone()).collect(),
            serial: read_first(&directory, &["device/serial", "serial"])
                .or_else(|| unit_serial(&directory)),
            wwn: read_first(&directory, &["device/wwid", "wwid"]),
            appearance: (
                read_number(&directory.join("diskseq")),
                fs::metadata(&directory).map_or(0, |data| data.ino()),
            ),
            path,
        });
    }
    drives.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(drives)
}

/// The serial number of the drive behind a block device, or behind the disk that it is a part of. Reads only what the
/// kernel knows.
pub fn serial_of(path: &Path) -> Option<String> {
    serial_in(&Places::default(), number_of(path)?)
}

/// Where the disk is opened that a block device is, or is a part of.
pub fn drive_of(path: &Path) -> Option<PathBuf> {
    drive_in(&Places::default(), number_of(path)?)
}

/// A block device's number.
fn number_of(path: &Path) -> Option<u64> {
    let device = fs::metadata(path).ok()?;
    device.file_type().is_block_device().then(|| device.rdev())
}

fn drive_in(places: &Places, device: u64) -> Option<PathBuf> {
    let whole = whole_in(places, device)?;
    let name = whole.file_name()?.to_str()?;
    Some(places.dev.join(name.replace('!', "/")))
}

fn serial_in(places: &Places, device: u64) -> Option<String> {
    let whole = whole_in(places, device)?;
    read_first(&whole, &["device/serial", "serial"]).or_else(|| unit_serial(&whole))
}

/// The kernel's directory of the disk that a block device is, or is a part of.
fn whole_in(places: &Places, device: u64) -> Option<PathBuf> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let directory = fs::canonicalize(places.sys.join(format!("dev/block/{major}:{minor}"))).ok()?;
    match directory.join("partition").exists() {
        true => Some(directory.parent()?.to_owned()),
        false => Some(directory),
    }
}

/// SCSI's page 80h, as the kernel read it when the disk appeared: two bytes, a length, the serial
/// number.
fn unit_serial(directory: &Path) -> Option<String> {
    let page = fs::read(directory.join("device/vpd_pg80")).ok()?;
    let (head, rest) = page.split_first_chunk::<4>()?;
    let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let text = str::from_utf8(rest.get(..len.min(rest.len()))?).ok()?;
    let text = text.trim_matches(|c: char| c == ' ' || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn drives_are_seen_with_all_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let put = |path: &str, text: &[u8]| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for name in ["sda", "sdb", "loop0"] {
            put(&format!("sys/block/{name}/size"), b"2048\n");
            put(&format!("dev/{name}"), b"");
        }
        put("sys/block/sda/diskseq", b"7\n");
        put("sys/block/sda/device/vpd_pg80", b"\0\x80\0\x0c    WD-12345");
        put("sys/block/sda/device/wwid", b"naa.50014ee2b1234567\n");
        put("sys/block/sdb/device/vpd_pg80", b"\0\x80\xff\xffxyz\0");
        fs::create_dir_all(root.join("dev/disk/by-id")).unwrap();
        std::os::unix::fs::symlink("../../sda", root.join("dev/disk/by-id/ata-X")).unwrap();
        let places =
            Places { sys: root.join("sys"), dev: root.join("dev"), proc: root.join("proc") };
        let drives = drives_in(&places).unwrap();
        assert_eq!(drives.len(), 2, "no hardware behind a loop device");
        assert_eq!(drives[0].serial.as_deref(), Some("WD-12345"));
        assert_eq!(drives[0].wwn.as_deref(), Some("naa.50014ee2b1234567"));
        assert_eq!(drives[0].links, [root.join("dev/disk/by-id/ata-X")]);
        assert_eq!(drives[0].appearance.0, 7);
        assert_eq!(drives[1].serial.as_deref(), Some("xyz"), "a length that lies");
        put("sys/block/sdb/device/vpd_pg80", b"\0\x80");
        assert_eq!(drives_in(&places).unwrap()[1].serial, None);
    }
}

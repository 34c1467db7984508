//! Files as FTP tells of them: LIST, NLST, MLSD, MLST and MDTM. Pure.

use std::os::unix::ffi::OsStrExt;

use block::CalendarTime;
use rustix::fs::{FileType, Stat};

use super::beneath::Entry;
use super::command::Listing;

/// The facts of MLSD and MLST, as FEAT names them; the star says that they are given.
pub(super) const FACTS: &str = "type*;size*;modify*;UNIX.uid*;UNIX.gid*;";

/// The contents of a directory, a line for each entry. `now_secs` decides whether a date has a year.
pub(super) fn listing(entries: &[Entry], listing: Listing, now_secs: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        match listing {
            Listing::Names => {}
            Listing::Facts => {
                bytes.extend_from_slice(format!("{} ", facts(&entry.stat)).as_bytes())
            }
            Listing::Long => {
                let line = format!("{} ", long(&entry.stat, now_secs));
                bytes.extend_from_slice(line.as_bytes());
            }
        }
        bytes.extend_from_slice(entry.name.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// The facts of a file for programs.
pub(super) fn facts(stat: &Stat) -> String {
    let kind = if is_directory(stat) { "dir" } else { "file" };
    let (size, modify) = (size_bytes(stat), time_text(stat));
    format!(
        "type={kind};size={size};modify={modify};UNIX.uid={};UNIX.gid={};",
        stat.st_uid, stat.st_gid
    )
}

/// `YYYYMMDDHHMMSS`, in UTC.
pub(super) fn time_text(stat: &Stat) -> String {
    let CalendarTime { year, month, day, hour, minute, second } =
        CalendarTime::of(modified_secs(stat));
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

pub(super) fn size_bytes(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// As `ls -l`, without the name.
fn long(stat: &Stat, now_secs: i64) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        _ => '-',
    };
    let permissions: String = (0..9)
        .map(|bit| if stat.st_mode & (0o400 >> bit) == 0 { '-' } else { ['r', 'w', 'x'][bit % 3] })
        .collect();
    let time = CalendarTime::of(modified_secs(stat));
    let month = MONTHS[(time.month as usize + 11) % 12];
    let when = if time.year == CalendarTime::of(now_secs).year {
        format!("{:02}:{:02}", time.hour, time.minute)
    } else {
        format!("{:>5}", time.year)
    };
    let (links, size) = (stat.st_nlink, size_bytes(stat));
    let (owner, group) = (stat.st_uid, stat.st_gid);
    let day = time.day;
    format!(
        "{kind}{permissions} {links:>4} {owner:>8} {group:>8} {size:>14} {month} {day:>2} {when}"
    )
}

fn modified_secs(stat: &Stat) -> i64 {
    // Its type differs between machines.
    #[allow(clippy::unnecessary_cast)]
    let secs = stat.st_mtime as i64;
    secs.max(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stat(mode: u32, size: i64, secs: i64) -> Stat {
        let mut stat = rustix::fs::stat("/").unwrap();
        (stat.st_mode, stat.st_size, stat.st_mtime) = (mode, size, secs);
        (stat.st_uid, stat.st_gid, stat.st_nlink) = (0, 7, 1);
        stat
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (secs, expected) in [
            (0, "19700101000000"),
            (951_782_399, "20000228235959"),
            (951_782_400, "20000229000000"),
            (951_868_800, "20000301000000"),
            (4_107_542_400, "21000301000000"),
            (1_735_689_599, "20241231235959"),
            (-5, "19700101000000"),
        ] {
            assert_eq!(time_text(&stat(0o100644, 0, secs)), expected);
        }
    }

    #[test]
    fn lines_are_as_clients_expect_them() {
        let entry = |name: &str, stat| Entry { name: name.into(), stat };
        let entries = [
            entry("a b", stat(0o100640, 5_000_000_000, 86_400 * 31)),
            entry("d", stat(0o040755, 4096, 86_400 * 400)),
        ];
        let text = |how| String::from_utf8(listing(&entries, how, 86_400 * 3)).unwrap();
        assert_eq!(text(Listing::Names), "a b\r\nd\r\n");
        assert_eq!(
            text(Listing::Long),
            "-rw-r-----    1        0        7     5000000000 Feb  1 00:00 a b\r\n\
             drwxr-xr-x    1        0        7           4096 Feb  5  1971 d\r\n"
        );
        assert_eq!(
            text(Listing::Facts),
            "type=file;size=5000000000;modify=19700201000000;UNIX.uid=0;UNIX.gid=7; a b\r\n\
             type=dir;size=4096;modify=19710205000000;UNIX.uid=0;UNIX.gid=7; d\r\n"
        );
    }
}

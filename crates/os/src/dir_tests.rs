#![allow(clippy::unwrap_used)]
#![allow(unsafe_code)] // a mount namespace for one thread

use std::fs;
use std::os::unix::net::UnixListener;

use rustix::net::{AddressFamily, SocketType};
use rustix::thread::UnshareFlags;

use super::*;

fn name(text: &str) -> &OsStr {
    OsStr::new(text)
}

fn connect(spot: &Spot) -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    spot.connect(&socket)
}

/// Runs `test` in a mount namespace of its own; says so where that can't be had.
fn with_own_mounts(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: the thread shares nothing with others that a namespace of its own would break.
        let made = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) };
        let kept = rustix::mount::MountPropagationFlags::PRIVATE
            | rustix::mount::MountPropagationFlags::REC;
        if made.is_err() || rustix::mount::mount_change("/", kept).is_err() {
            eprintln!("SKIPPED: no right to make a mount namespace");
            return;
        }
        test();
    });
    thread.join().unwrap();
}

fn cover(directory: &Path) {
    rustix::mount::mount("none", directory, "tmpfs", rustix::mount::MountFlags::empty(), None)
        .unwrap();
}

#[test]
fn entries_are_made_read_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::create(&dir.path().join("a/b")).unwrap();
    assert_eq!(directory.read("x", 10).unwrap(), None);
    directory.replace(name("x"), b"0123456789").unwrap();
    assert_eq!(directory.read("x", 4).unwrap().unwrap(), b"0123");
    directory.symlink(Path::new("/none"), name("link")).unwrap();
    assert_eq!(directory.read_link(name("link")).unwrap(), Path::new("/none"));
    assert!(directory.read("link", 4).is_err(), "it leads out");
    assert!(directory.read("../b/x", 4).is_err());
    let below = directory.subdirectory("c").unwrap();
    below.replace(name("y"), b"").unwrap();
    assert_eq!(below.path_of("y"), dir.path().join("a/b/c/y"));
    assert_eq!(directory.present("c").unwrap().names().unwrap(), ["y"]);
    directory.rename(name("x"), name("z")).unwrap();
    directory.remove(name("link")).unwrap();
    let mut names = directory.names().unwrap();
    names.sort();
    assert_eq!(names, ["c", "z"]);
    assert!(directory.remove(name("link")).is_err());
}

/// What is told to have failed isn't what the next start reads.
#[test]
fn what_may_not_last_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::open(dir.path()).unwrap();
    let left = || fs::read_dir(dir.path()).unwrap().count();
    let mut fails = |_: &Directory| Err(io::Error::from(io::ErrorKind::StorageFull));
    let failed = directory.replace_with(name("state"), b"first", &mut fails);
    assert!(matches!(failed, Err(WriteError::Unchanged(_))), "{failed:?}");
    assert_eq!(left(), 0, "there was none");
    directory.replace(name("state"), b"former").unwrap();
    let failed = directory.replace_with(name("state"), b"new", &mut fails);
    assert!(matches!(failed, Err(WriteError::Unchanged(_))), "{failed:?}");
    assert_eq!((fs::read(dir.path().join("state")).unwrap(), left()), (b"former".to_vec(), 1));
    // The former is gone too: nobody can tell what a restart will find.
    let mut damages = |directory: &Directory| {
        for entry in directory.names()? {
            if entry.to_string_lossy().ends_with(".former") {
                directory.remove(&entry)?;
            }
        }
        Err(io::Error::from(io::ErrorKind::StorageFull))
    };
    let failed = directory.replace_with(name("state"), b"new", &mut damages);
    assert!(matches!(failed, Err(WriteError::Uncertain(_))), "{failed:?}");
    // What can't be begun leaves nothing behind.
    fs::create_dir(dir.path().join("directory")).unwrap();
    let failed = directory.replace(name("directory"), b"x");
    assert!(matches!(failed, Err(WriteError::Unchanged(_))));
    assert_eq!(left(), 2);
}

#[test]
fn a_socket_is_found_in_a_directory_that_was_made_anew_or_later() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run/deep");
    // Nothing of the way is there yet.
    let early = Spot::of(&run.join("socket")).unwrap();
    assert_eq!(connect(&early).unwrap_err().kind(), io::ErrorKind::NotFound);
    fs::create_dir_all(&run).unwrap();
    let late = Spot::of(&run.join("socket")).unwrap();
    for _ in 0..2 {
        let listener = UnixListener::bind(run.join("socket")).unwrap();
        for spot in [&early, &late] {
            connect(spot).unwrap();
            let file_type = rustix::fs::FileType::from_raw_mode(spot.status().unwrap().st_mode);
            assert!(file_type.is_socket());
        }
        drop(listener);
        assert_eq!(connect(&late).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        fs::remove_dir_all(&run).unwrap();
        assert_eq!(connect(&late).unwrap_err().kind(), io::ErrorKind::NotFound);
        fs::create_dir(&run).unwrap();
    }
}

#[test]
fn what_is_mounted_above_or_over_a_directory_is_never_entered() {
    with_own_mounts(|| {
        let dir = tempfile::tempdir().unwrap();
        let (top, run) = (dir.path().join("top"), dir.path().join("top/run"));
        fs::create_dir_all(&run).unwrap();
        let listener = UnixListener::bind(run.join("socket")).unwrap();
        let directory = Directory::open(&run).unwrap();
        let spot = Spot::of(&run.join("socket")).unwrap();
        cover(&run);
        connect(&spot).unwrap();
        cover(&top);
        connect(&spot).unwrap();
        assert!(!run.exists(), "covered");
        directory.replace(name("state"), b"x").unwrap();
        assert_eq!(directory.read("state", 9).unwrap().unwrap(), b"x");
        // A run directory that is itself a mount point is that one from the beginning.
        let own = dir.path().join("own");
        fs::create_dir(&own).unwrap();
        cover(&own);
        let mounted = Spot::of(&own.join("socket")).unwrap();
        let other = UnixListener::bind(own.join("socket")).unwrap();
        connect(&mounted).unwrap();
        drop((listener, other));
    });
}

#[test]
fn nothing_leads_out_of_a_copy_that_is_alone() {
    with_own_mounts(|| {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("own")).unwrap();
        let directory = Directory::open(&dir.path().join("own")).unwrap();
        directory.replace(name("file"), b"x").unwrap();
        let above = |directory: &Directory| {
            let above = rustix::fs::openat(&directory.fd, "../..", DIRECTORY, Mode::empty());
            rustix::fs::fstat(above.unwrap()).unwrap().st_ino
        };
        let own = directory.own_status().unwrap().st_ino;
        assert_ne!(above(&directory), own);
        let (read, write) = (directory.alone(Access::Read), directory.alone(Access::Write));
        let (read, write) = (read.unwrap(), write.unwrap());
        assert_eq!((above(&read), above(&write)), (own, own));
        assert_eq!(read.read("file", 9).unwrap().unwrap(), b"x");
        let refused = io::Error::from(read.replace(name("file"), b"y").unwrap_err());
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        write.replace(name("file"), b"z").unwrap();
        assert_eq!(read.read("file", 9).unwrap().unwrap(), b"z");
    });
}

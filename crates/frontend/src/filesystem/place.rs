//! Where a volume may be mounted. The mount point comes from a pool's settings, so from whoever made
//! the pool, and a mount hides what is below it from every process, our own included. So it is judged
//! by where it leads and not by its text, right before each mount; and what was judged is what is
//! mounted on.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::FilesystemError;
use crate::kernel::{self, MountEntry};

/// Directories of the system: nothing is mounted there, nor below them unless a root is named there.
const SYSTEM: [&str; 14] = [
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/root", "/run", "/sbin",
    "/sys", "/usr", "/var",
];
/// Not even then: the kernel's own.
const KERNEL: [&str; 3] = ["/dev", "/proc", "/sys"];
/// Nothing is mounted on these themselves.
const SHARED: [&str; 9] =
    ["/", "/home", "/media", "/mnt", "/opt", "/srv", "/tmp", "/var/lib", "/var/tmp"];

/// Where mounts may be.
#[derive(Clone, Debug, Default)]
pub struct PlaceRules {
    /// Directories below which.
    pub roots: Vec<PathBuf>,
    /// Directories that no mount may lie above or below.
    pub needed: Vec<NeededDirectory>,
    /// Whether the volume was mounted there and comes back by itself: what was written into the
    /// directory while it was away is hidden by it, as it was meant to be written into the volume.
    pub comes_back: bool,
}

/// A directory without which a process can't go on.
#[derive(Clone, Debug)]
pub struct NeededDirectory {
    /// The directory.
    pub path: PathBuf,
    /// Whose it is, for people.
    pub whose: String,
    /// A directory below it that it makes no use of.
    pub except: Option<PathBuf>,
}

/// Why not there, and what to do.
fn refused(path: &Path, reason: impl Into<String>, remedy: impl Into<String>) -> FilesystemError {
    let (reason, remedy) = (reason.into(), remedy.into());
    FilesystemError::MountPoint { path: path.to_owned(), reason, remedy }
}

/// Judges a mount point and returns where it leads. `device`, by its numbers, may be mounted there
/// already. Nothing is made.
pub(super) fn check_now(
    path: &Path,
    rules: &PlaceRules,
    device: Option<(u32, u32)>,
) -> Result<PathBuf, FilesystemError> {
    let resolved = resolve(path)?;
    check_allowed(path, &resolved, rules)?;
    check_needed(path, &resolved, rules)?;
    if check_mounts(path, &resolved, device)? {
        return Ok(resolved);
    }
    match std::fs::symlink_metadata(&resolved) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(&resolved, error)),
        Ok(found) if !found.is_dir() => {
            return Err(refused(path, "it is not a directory", "choose a directory"));
        }
        Ok(_) => {
            let empty = std::fs::read_dir(&resolved).map(|mut all| all.next().is_none());
            check_empty(path, rules, empty)?
        }
    }
    Ok(resolved)
}

/// A mount point that was judged and is held open.
pub(super) struct Place {
    directory: OwnedFd,
    /// Where it is.
    pub path: PathBuf,
}

impl Place {
    /// Makes the mount point if need be and holds it; whatever becomes of its path then, this is what
    /// was judged.
    pub fn prepare(path: &Path, rules: &PlaceRules) -> Result<Place, FilesystemError> {
        let resolved = check_now(path, rules, None)?;
        std::fs::create_dir_all(&resolved).map_err(|error| {
            FilesystemError::system(format!("creating {}", path.display()), error)
        })?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&resolved, flags, Mode::empty())
            .map_err(|error| failed(&resolved, error.into()))?;
        let place = Place { directory, path: resolved };
        let there = std::fs::read_link(place.handle()).map_err(|error| failed(path, error))?;
        if there != place.path {
            let reason = format!("it leads to {} now, a moment ago elsewhere", there.display());
            return Err(refused(path, reason, "find out who changes it, then try again"));
        }
        check_mounts(path, &place.path, None)?;
        check_empty(path, rules, place.is_empty())?;
        Ok(place)
    }

    /// A path that means the directory itself.
    pub fn handle(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))
    }

    fn is_empty(&self) -> io::Result<bool> {
        // Through the descriptor: not the root of what may have been mounted over it meanwhile.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.directory, ".", flags, Mode::empty())?;
        for entry in rustix::fs::Dir::new(opened)? {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn failed(path: &Path, error: io::Error) -> FilesystemError {
    FilesystemError::system(format!("looking at {}", path.display()), error)
}

fn check_empty(
    path: &Path,
    rules: &PlaceRules,
    empty: io::Result<bool>,
) -> Result<(), FilesystemError> {
    if empty.map_err(|error| failed(path, error))? {
        return Ok(());
    }
    if rules.comes_back {
        tracing::warn!(target = %path.display(), "something was written into the mount point while nothing was mounted there; the mount hides it");
        return Ok(());
    }
    Err(refused(
        path,
        "it is not empty; a mount would hide what is in it",
        "move its contents elsewhere, or choose another directory",
    ))
}

/// Where a path leads: without links, and, as far as it doesn't exist yet, as it would be made.
fn resolve(path: &Path) -> Result<PathBuf, FilesystemError> {
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(plain) {
        return Err(refused(path, "it is not an absolute path without '..'", "name such a path"));
    }
    for existing in path.ancestors() {
        let found = match existing.canonicalize() {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if existing.symlink_metadata().is_ok() {
                    let reason = format!("{} is a link to nothing", existing.display());
                    return Err(refused(path, reason, "name the directory itself"));
                }
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => continue,
            Err(error) => return Err(failed(existing, error)),
        };
        let missing = path.strip_prefix(existing).unwrap_or(Path::new(""));
        if missing.as_os_str().is_empty() {
            return Ok(found);
        }
        if !found.is_dir() {
            let reason = format!("{} is not a directory", existing.display());
            return Err(refused(path, reason, "choose a directory"));
        }
        return Ok(found.join(missing));
    }
    Err(refused(path, "nothing of it exists", "choose a directory"))
}

fn check_allowed(path: &Path, resolved: &Path, rules: &PlaceRules) -> Result<(), FilesystemError> {
    let leads = match path == resolved {
        true => String::new(),
        false => format!("it leads to {}, and ", resolved.display()),
    };
    let roots: Vec<PathBuf> =
        rules.roots.iter().filter_map(|root| root.canonicalize().ok()).collect();
    let named: Vec<String> = rules.roots.iter().map(|root| root.display().to_string()).collect();
    let named = match named.as_slice() {
        [] => "(none are configured)".to_owned(),
        named => named.join(", "),
    };
    let above: Vec<&PathBuf> =
        roots.iter().filter(|root| resolved.starts_with(root) && resolved != *root).collect();
    if above.is_empty() {
        return Err(refused(
            path,
            format!("{leads}mounts go below the directories {named} only"),
            "choose a directory below one of them; another is allowed by `roots` in [mount] of the \
             supervisor's configuration, which is read at its start",
        ));
    }
    let of_system = SYSTEM.iter().map(Path::new).find(|system| resolved.starts_with(system));
    let is_kernels = KERNEL.iter().any(|kernel| resolved.starts_with(kernel));
    let named_inside = |system: &Path| above.iter().any(|root| root.starts_with(system));
    let refuse = is_kernels
        || SHARED.iter().chain(&SYSTEM).any(|shared| resolved == Path::new(shared))
        || of_system.is_some_and(|system| !named_inside(system));
    if refuse {
        let reason = format!("{leads}this is a directory of the system");
        return Err(refused(path, reason, "use a directory of its own, such as /srv/NAME"));
    }
    Ok(())
}

fn check_needed(path: &Path, resolved: &Path, rules: &PlaceRules) -> Result<(), FilesystemError> {
    for needed in &rules.needed {
        // One that can't be resolved is taken by its text: it may be on a mount that is gone.
        let place = resolve(&needed.path).unwrap_or_else(|_| needed.path.clone());
        let spared = needed.except.as_ref().is_some_and(|except| resolved.starts_with(except));
        let (above, below) = (place.starts_with(resolved), resolved.starts_with(&place));
        if above || (below && !spared) {
            let how = if above { "would hide" } else { "would lie in" };
            let reason =
                format!("a mount there {how} {}, which {} needs", place.display(), needed.whose);
            return Err(refused(path, reason, "choose a directory apart from it"));
        }
    }
    Ok(())
}

/// Whether `device` is mounted there already; refuses if something else is, or is below.
fn check_mounts(
    path: &Path,
    resolved: &Path,
    device: Option<(u32, u32)>,
) -> Result<bool, FilesystemError> {
    let mounts = kernel::mounts()
        .map_err(|error| FilesystemError::system("reading the mount table", error))?;
    let at = |entry: &&MountEntry| entry.target == resolved;
    if let Some(entry) = mounts.iter().rev().find(at) {
        if device.is_some_and(|device| entry.is_of(device)) {
            return Ok(true);
        }
        let (target, source_name) = (resolved.to_owned(), entry.source.clone());
        return Err(FilesystemError::OtherMount { target, source_name });
    }
    if let Some(hidden) = mounts.iter().find(|entry| entry.target.starts_with(resolved)) {
        let reason = format!("it would hide the mount at {}", hidden.target.display());
        return Err(refused(path, reason, "choose a directory without mounts in it"));
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    struct Tree {
        _directory: tempfile::TempDir,
        base: PathBuf,
        rules: PlaceRules,
    }

    fn tree() -> Tree {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        for made in ["root/empty", "root/full/x", "state/run", "elsewhere", "root/mine/lab"] {
            std::fs::create_dir_all(base.join(made)).unwrap();
        }
        std::fs::write(base.join("root/file"), "").unwrap();
        symlink(base.join("elsewhere"), base.join("root/out")).unwrap();
        symlink(base.join("root/empty"), base.join("root/in")).unwrap();
        symlink(base.join("nothing"), base.join("root/dangling")).unwrap();
        symlink(base.join("root"), base.join("way")).unwrap();
        let needed = |path: &str, except: Option<&str>| NeededDirectory {
            path: base.join(path),
            whose: "the supervisor (process 7)".into(),
            except: except.map(|except| base.join(except)),
        };
        let rules = PlaceRules {
            roots: vec![base.join("way"), base.join("not-there")],
            needed: vec![
                needed("root/mine", Some("root/mine/lab")),
                needed("root/not-yet/run", None),
            ],
            ..PlaceRules::default()
        };
        Tree { _directory: directory, base, rules }
    }

    #[test]
    fn a_mount_point_is_judged_by_where_it_leads() {
        let Tree { base, rules, .. } = &tree();
        let check = |path: &str| check_now(&base.join(path), rules, None);
        for (path, leads) in [
            ("root/empty", "root/empty"),
            ("root/new/deep", "root/new/deep"),
            ("way/empty", "root/empty"),
            ("root/in", "root/empty"),
            ("root/in/new", "root/empty/new"),
            ("root/mine/lab/x", "root/mine/lab/x"),
        ] {
            assert_eq!(check(path).unwrap(), base.join(leads), "{path}");
        }
        for (path, why) in [
            ("elsewhere", "mounts go below the directories"),
            ("root/out", "it leads to"),
            ("root/out/new", "it leads to"),
            ("root", "mounts go below"),
            ("root/../elsewhere", "without '..'"),
            ("root/full", "not empty"),
            ("root/file", "not a directory"),
            ("root/file/x", "not a directory"),
            ("root/dangling", "a link to nothing"),
            ("root/dangling/x", "a link to nothing"),
            ("root/mine", "would hide"),
            ("root/mine/x", "which the supervisor (process 7) needs"),
            ("root/not-yet", "would hide"),
        ] {
            let error = check(path).unwrap_err().to_string();
            assert!(error.contains(why), "{path}: {error}");
        }
        assert!(!base.join("root/new").exists(), "a check makes nothing");
        let again = PlaceRules { comes_back: true, ..rules.clone() };
        assert!(Place::prepare(&base.join("root/full"), &again).is_ok(), "it was there before");
        assert!(Place::prepare(&base.join("root/out"), &again).is_err());
    }

    #[test]
    fn directories_of_the_system_and_other_mounts_are_refused_below_any_root() {
        let rules = PlaceRules { roots: vec!["/".into()], ..PlaceRules::default() };
        for path in ["/etc/cron.new", "/root/.ssh-new", "/var/lib", "/home", "/usr/new", "/run/new"]
        {
            let error = check_now(Path::new(path), &rules, None).unwrap_err().to_string();
            assert!(error.contains("directory of the system"), "{path}: {error}");
        }
        let roots = vec!["/var".into(), "/proc".into()];
        let inside = PlaceRules { roots, ..PlaceRules::default() };
        assert!(check_now(Path::new("/var/not-there-yet"), &inside, None).is_ok());
        assert!(check_now(Path::new("/proc/x"), &inside, None).is_err());
        let mounts = kernel::mounts().unwrap();
        let proc = mounts.iter().find(|entry| entry.target == Path::new("/proc")).unwrap();
        let refused = check_mounts(Path::new("/proc"), Path::new("/proc"), None);
        assert!(matches!(refused, Err(FilesystemError::OtherMount { .. })));
        let own = check_mounts(Path::new("/proc"), Path::new("/proc"), Some(proc.device));
        assert!(matches!(own, Ok(true)));
        let error = check_mounts(Path::new("/"), Path::new("/"), Some((0, 0))).unwrap_err();
        assert!(matches!(error, FilesystemError::OtherMount { .. }), "{error}");
    }

    #[test]
    fn what_was_judged_is_held_whatever_becomes_of_its_path() {
        let Tree { base, rules, .. } = &tree();
        let place = Place::prepare(&base.join("root/new/deep"), rules).unwrap();
        std::fs::rename(base.join("root/new/deep"), base.join("root/new/moved")).unwrap();
        symlink("/etc", base.join("root/new/deep")).unwrap();
        let held = std::fs::read_link(place.handle()).unwrap();
        assert_eq!(held, base.join("root/new/moved"));
        std::fs::write(base.join("root/empty/late"), "").unwrap();
        assert!(Place::prepare(&base.join("root/in"), rules).is_err());
    }
}

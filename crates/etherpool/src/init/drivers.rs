//! Drivers, loaded for the devices that there are, and for those that come: by the kernel's own words for them (modaliases).

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use image::modules::Modules;
use os::machine::{DeviceNews, load_module};

/// Where the kernel shows its devices.
const DEVICES: &str = "/sys/devices";
const DEPTH_MAX: usize = 24;
/// A modalias is a line.
const MODALIAS_BYTES_MAX: usize = 4096;
/// Asked for by name: no device calls for them, and what is read of buttons and packets needs them.
const ALWAYS: [&str; 4] = ["af_packet", "evdev", "button", "virtio_rng"];

/// Buses lie behind buses: a driver brings devices, whose drivers bring more. Deeper than any machine.
const ROUNDS_MAX: usize = 32;

/// The modules of an image, and which of them are loaded.
struct Drivers<L> {
    modules: Modules,
    directory: PathBuf,
    /// Gives a file to the kernel.
    insert: L,
    /// Loaded, or never to be; not those that found no device yet.
    tried: BTreeSet<String>,
    /// What devices were looked for drivers by.
    aliases: BTreeSet<String>,
}

/// What the thread that loads drivers tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// All that was there at the beginning has its drivers.
    Settled,
    /// There are none for the kernel that runs: it came from one image, and the initramfs from another.
    None(String),
    /// A device came or went.
    Changed,
    /// A disk of the machine came; told beside the other.
    DiskCame,
}

/// Loads drivers from now on, on a thread of its own: some wait long for their devices.
pub fn follow(tell: impl Fn(News) + Send + 'static) -> std::io::Result<()> {
    let follow = move || {
        // Before devices are looked at: what comes in between is told.
        let devices = DeviceNews::open();
        let mut drivers = match of_running_kernel() {
            Ok(drivers) => drivers,
            Err(error) => return tell(News::None(error.to_string())),
        };
        let begun = Instant::now();
        ALWAYS.iter().for_each(|name| drivers.load(name));
        drivers.load_all_below(Path::new(DEVICES));
        // Now that all have been tried that are a device's.
        if !super::watchdog::Watchdog::is_there() {
            drivers.load(super::watchdog::SOFTWARE);
        }
        tracing::info!(modules = drivers.tried.len(), took = ?begun.elapsed(), "drivers are loaded");
        tell(News::Settled);
        let devices = match devices {
            Ok(devices) => devices,
            Err(error) => {
                tracing::error!(%error, "devices that come later get no drivers");
                return;
            }
        };
        loop {
            match devices.next() {
                Ok(Some(bytes)) => {
                    let event = Event::parse(&bytes);
                    if let Some(alias) = event.modalias.filter(|_| event.is_added) {
                        drivers.load(alias);
                    }
                    if event.is_of_interest {
                        tell(News::Changed);
                    }
                    if event.is_new_disk() {
                        tell(News::DiskCame);
                    }
                }
                // Some were lost: all is looked at again.
                Ok(None) => {
                    drivers.aliases.clear();
                    drivers.load_all_below(Path::new(DEVICES));
                    tell(News::Changed);
                    tell(News::DiskCame);
                }
                Err(error) => {
                    tracing::error!(%error, "devices that come later get no drivers");
                    return;
                }
            }
        }
    };
    std::thread::Builder::new().name("drivers".to_owned()).spawn(follow).map(drop)
}

/// Loads what a name or alias means, for the kernel, which asks by `modprobe`.
pub fn load_by_name(name: &str) -> bool {
    let Ok(mut drivers) = of_running_kernel() else { return false };
    let is_known = drivers.modules.is_built_in(name) || !drivers.modules.meant_by(name).is_empty();
    drivers.load(name);
    is_known
}

fn of_running_kernel() -> Result<Drivers<impl FnMut(&Path) -> io::Result<()>>, image::Error> {
    let directory = Path::new("/lib/modules").join(os::machine::kernel_release());
    Drivers::of(&directory, |file| load_module(file, ""))
}

impl<L: FnMut(&Path) -> io::Result<()>> Drivers<L> {
    fn of(directory: &Path, insert: L) -> Result<Drivers<L>, image::Error> {
        Ok(Drivers {
            modules: Modules::read(directory)?,
            directory: directory.to_owned(),
            insert,
            tried: BTreeSet::new(),
            aliases: BTreeSet::new(),
        })
    }

    fn load(&mut self, alias: &str) {
        for file in self.modules.order_for(alias) {
            if !self.tried.insert(file.to_owned()) {
                continue;
            }
            match (self.insert)(&self.directory.join(file)) {
                Ok(()) => tracing::debug!(file, "loaded"),
                // Its device isn't there, whatever the alias says. Another may come.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                    self.tried.remove(file);
                }
                Err(error) => tracing::warn!(%error, "{file} can't be loaded"),
            }
        }
    }

    /// For all devices that there are, and for those that appear by that.
    fn load_all_below(&mut self, devices: &Path) {
        for _ in 0..ROUNDS_MAX {
            let mut present = BTreeSet::new();
            walk(devices, DEPTH_MAX, &mut present);
            let new: Vec<String> = present.difference(&self.aliases).cloned().collect();
            if new.is_empty() {
                return;
            }
            new.iter().for_each(|alias| self.load(alias));
            self.aliases.extend(new);
        }
    }
}

fn walk(directory: &Path, depth: usize, aliases: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        // Links lead to where we come to anyway, or in circles.
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth > 0 {
            walk(&entry.path(), depth - 1, aliases);
        } else if kind.is_file() && entry.file_name() == "modalias" {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let text = text.trim();
            if !text.is_empty() && text.len() <= MODALIAS_BYTES_MAX {
                aliases.insert(text.to_owned());
            }
        }
    }
}

/// What the kernel tells of a device: `add@/devices/…`, and `NAME=value` after zeros.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event<'b> {
    is_added: bool,
    modalias: Option<&'b str>,
    /// An interface, or a disk.
    is_of_interest: bool,
    /// A disk as a whole.
    is_disk: bool,
    /// Made of others by commands, or of nothing: an array, a loop.
    is_virtual: bool,
}

impl Event<'_> {
    fn parse(bytes: &[u8]) -> Event<'_> {
        let mut event = Event::default();
        for line in bytes.split(|byte| *byte == 0) {
            let Ok(line) = std::str::from_utf8(line) else { continue };
            match line.split_once('=') {
                Some(("ACTION", action)) => event.is_added = action == "add",
                Some(("MODALIAS", alias)) => event.modalias = Some(alias),
                Some(("SUBSYSTEM", what)) => {
                    event.is_of_interest = ["net", "block", "input", "watchdog"].contains(&what);
                }
                Some(("DEVTYPE", kind)) => event.is_disk = kind == "disk",
                Some(("DEVPATH", path)) => event.is_virtual = path.starts_with("/devices/virtual/"),
                _ => {}
            }
        }
        event
    }

    fn is_new_disk(&self) -> bool {
        self.is_added && self.is_disk && !self.is_virtual
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_understood() {
        let bytes = b"add@/devices/pci0000:00/0000:00:03.0\0ACTION=add\0SUBSYSTEM=pci\0MODALIAS=pci:v00001AF4\0SEQNUM=7\0";
        let event = Event::parse(bytes);
        assert_eq!((event.is_added, event.modalias), (true, Some("pci:v00001AF4")));
        assert!(!event.is_of_interest);
        let event = Event::parse(b"remove@/x\0ACTION=remove\0SUBSYSTEM=net\0\xff\0");
        assert!(!event.is_added && event.is_of_interest);
        assert_eq!(Event::parse(b""), Event::default());
        for (action, path, kind, is_new_disk) in [
            ("add", "/devices/pci0000:00/ata1/host0/block/sda", "disk", true),
            ("remove", "/devices/pci0000:00/ata1/host0/block/sda", "disk", false),
            ("add", "/devices/pci0000:00/ata1/host0/block/sda/sda1", "partition", false),
            ("add", "/devices/virtual/block/md0", "disk", false),
        ] {
            let text = format!(
                "{action}@{path}\0ACTION={action}\0DEVPATH={path}\0SUBSYSTEM=block\0DEVTYPE={kind}\0"
            );
            assert_eq!(Event::parse(text.as_bytes()).is_new_disk(), is_new_disk, "{text}");
        }
    }

    #[test]
    fn devices_are_found_and_links_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("pci0/0000:00/modalias", "pci:a\n");
        put("pci0/0000:00/virtio0/modalias", "virtio:b\n");
        put("pci0/empty/modalias", "\n");
        std::os::unix::fs::symlink("..", dir.path().join("pci0/subsystem")).unwrap();
        let mut aliases = BTreeSet::new();
        walk(dir.path(), DEPTH_MAX, &mut aliases);
        assert_eq!(aliases.into_iter().collect::<Vec<_>>(), ["pci:a", "virtio:b"]);
    }

    /// A kernel's modules: a bus, what lies behind it, and one that finds no device at first.
    fn kernel() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        put("modules.dep", "kernel/bus.ko:\nkernel/disk.ko:\nkernel/late.ko:\n");
        put("modules.alias", "alias pci:a bus\nalias virtio:b disk\nalias acpi:* late\n");
        dir
    }

    #[test]
    fn devices_behind_buses_are_found_by_the_drivers_of_these() {
        let (kernel, devices) = (kernel(), tempfile::tempdir().unwrap());
        let put = |path: &str, text: &str| {
            let path = devices.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("pci0/modalias", "pci:a\n");
        put("acpi0/modalias", "acpi:1\n");
        let (mut loaded, mut is_late) = (Vec::new(), true);
        let mut drivers = Drivers::of(kernel.path(), |file: &Path| {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            if name == "bus.ko" {
                put("pci0/virtio0/modalias", "virtio:b\n");
            } else if name == "late.ko" && std::mem::take(&mut is_late) {
                return Err(io::Error::from_raw_os_error(libc::ENODEV));
            }
            loaded.push(name);
            Ok(())
        })
        .unwrap();
        drivers.load_all_below(devices.path());
        // A device that came, and one that is there for the second time.
        drivers.load("acpi:2");
        drivers.load("acpi:3");
        assert_eq!(loaded, ["bus.ko", "disk.ko", "late.ko"]);
    }

    #[test]
    fn the_kernel_of_another_image_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let found = Drivers::of(&dir.path().join("6.1.0-0"), |_: &Path| Ok(()));
        assert!(found.err().unwrap().to_string().contains("6.1.0-0"));
    }
}

//! Drivers, loaded for the devices that there are, and for those that come: by the kernel's own words for them (modaliases).

use std::collections::BTreeSet;
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

/// The modules of an image, and which of them are loaded.
pub struct Drivers {
    modules: Modules,
    directory: PathBuf,
    tried: BTreeSet<String>,
}

/// What the thread that loads drivers tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// All that was there at the beginning has its drivers.
    Settled,
    /// A device came or went.
    Changed,
}

/// Loads drivers from now on, on a thread of its own: some wait long for their devices.
pub fn follow(tell: impl Fn(News) + Send + 'static) -> std::io::Result<()> {
    let follow = move || {
        // Before devices are looked at: what comes in between is told.
        let devices = DeviceNews::open();
        let mut drivers = Drivers::of_running_kernel();
        let begun = Instant::now();
        ALWAYS.iter().for_each(|name| drivers.load(name));
        drivers.load_all_present();
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
                }
                // Some were lost: all is looked at again.
                Ok(None) => {
                    drivers.load_all_present();
                    tell(News::Changed);
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
    let mut drivers = Drivers::of_running_kernel();
    let is_known = drivers.modules.is_built_in(name) || !drivers.modules.meant_by(name).is_empty();
    drivers.load(name);
    is_known
}

impl Drivers {
    fn of_running_kernel() -> Drivers {
        let directory = Path::new("/lib/modules").join(os::machine::kernel_release());
        let modules = Modules::read(&directory).unwrap_or_else(|error| {
            tracing::error!("no drivers can be loaded: {error}");
            Modules::default()
        });
        Drivers { modules, directory, tried: BTreeSet::new() }
    }

    fn load(&mut self, alias: &str) {
        for file in self.modules.order_for(alias) {
            if !self.tried.insert(file.to_owned()) {
                continue;
            }
            match load_module(&self.directory.join(file), "") {
                Ok(()) => tracing::debug!(file, "loaded"),
                // Its device isn't there, whatever the alias says.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => tracing::warn!(%error, "{file} can't be loaded"),
            }
        }
    }

    fn load_all_present(&mut self) {
        let mut aliases = BTreeSet::new();
        walk(Path::new(DEVICES), DEPTH_MAX, &mut aliases);
        aliases.iter().for_each(|alias| self.load(alias));
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
                _ => {}
            }
        }
        event
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
}

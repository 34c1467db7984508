//! The power button, which is a keyboard with one key (Documentation/input/event-codes.rst of Linux).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where keyboards are.
const DEVICES: &str = "/dev/input";
/// struct input_event of 64 bits: time, type, code, value.
const EVENT_BYTES: usize = 24;
const TYPE_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// Buttons that are listened to.
#[derive(Default)]
pub struct Buttons {
    known: BTreeSet<PathBuf>,
}

impl Buttons {
    /// Listens to those that are new, each on a thread of its own, which ends with the device; `pressed` is called.
    pub fn look(&mut self, pressed: impl Fn() + Clone + Send + 'static) {
        let Ok(entries) = std::fs::read_dir(DEVICES) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.starts_with("event") || !is_button(name) || self.known.contains(&path) {
                continue;
            }
            let Ok(device) = File::open(&path) else { continue };
            let pressed = pressed.clone();
            let listening = std::thread::Builder::new()
                .name("button".to_owned())
                .stack_size(64 << 10)
                .spawn(move || listen(device, pressed));
            if listening.is_ok() {
                self.known.insert(path);
            }
        }
    }
}

fn is_button(name: &str) -> bool {
    let place = Path::new("/sys/class/input").join(name).join("device/name");
    std::fs::read_to_string(place).is_ok_and(|text| text.trim() == "Power Button")
}

fn listen(mut device: impl Read, pressed: impl Fn()) {
    let mut event = [0; EVENT_BYTES];
    while device.read_exact(&mut event).is_ok() {
        if is_press(&event) {
            pressed();
        }
    }
}

fn is_press(event: &[u8; EVENT_BYTES]) -> bool {
    let half = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    half(16) == TYPE_KEY && half(18) == KEY_POWER && half(20) == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn only_that_key_counts_and_only_when_it_goes_down() {
        let event = |kind: u16, code: u16, value: u32| {
            let mut bytes = vec![0; 16];
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(code.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
            bytes
        };
        let events = [event(1, 116, 1), event(0, 0, 0), event(1, 116, 0), event(1, 30, 1), vec![1]];
        let pressed = Cell::new(0);
        listen(events.concat().as_slice(), || pressed.set(pressed.get() + 1));
        assert_eq!(pressed.get(), 1);
    }
}

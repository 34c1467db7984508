//! Who has asked, and what became of it.

use std::collections::BTreeMap;

use aoe_wire::MacAddr;
use boot::dhcp::{Client, Program};
use os::dir::Directory;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::kept::{self, now_seconds};

/// Machines that are remembered: more of them than a segment has.
const SIGHTINGS_MAX: usize = 1024;
/// The file.
pub const FILE: &str = "sightings.json";

/// The last that was seen of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// The address by which it asked.
    pub mac: MacAddr,
    /// As it said.
    pub uuid: Option<Uuid>,
    /// As it said.
    pub hostname: Option<String>,
    /// What of it asked: its firmware, or iPXE.
    pub program: String,
    /// What it runs.
    pub architecture: String,
    /// When it asked last.
    pub asked_at_seconds: u64,
    /// How often it has asked.
    pub asked: u64,
    /// What it was given then.
    pub given: String,
    /// How far it got.
    #[serde(default)]
    pub result: Option<String>,
    /// When.
    #[serde(default)]
    pub result_at_seconds: u64,
}

/// All of them.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sightings {
    sightings: Vec<Sighting>,
    #[serde(skip)]
    at: BTreeMap<MacAddr, usize>,
}

/// Those that the server has seen, for commands; none where it never ran.
pub fn read(directory: &Directory) -> anyhow::Result<Sightings> {
    Ok(kept::read_seen(directory, FILE)?)
}

impl Sightings {
    /// Those that there are, who asked last first.
    pub fn all(&self) -> Vec<Sighting> {
        let mut all = self.sightings.clone();
        all.sort_by_key(|one| (std::cmp::Reverse(one.asked_at_seconds), one.mac));
        all
    }

    /// A machine asked, and was given that. Whether that is something else than the last time.
    pub fn asked(&mut self, client: &Client, given: &str) -> bool {
        let one = self.of(client.mac);
        let program = match client.program {
            Program::Pxe => "pxe",
            Program::Http => "http",
            Program::Ipxe => "ipxe",
            Program::Other => "other",
        };
        let is_news = one.given != given || one.program != program;
        one.uuid = client.uuid.or(one.uuid);
        one.hostname = client.hostname.clone().or(one.hostname.take());
        program.clone_into(&mut one.program);
        one.architecture = client.architecture.to_string();
        (one.asked_at_seconds, one.asked) = (now_seconds(), one.asked.saturating_add(1));
        given.clone_into(&mut one.given);
        is_news
    }

    /// A machine got so far. Nothing where it never asked: whoever fetches a file in the name of another makes none.
    pub fn got(&mut self, mac: MacAddr, how_far: &str) {
        let index = self.index(mac);
        if let Some(one) = index.and_then(|index| self.sightings.get_mut(index)) {
            one.result = Some(how_far.to_owned());
            one.result_at_seconds = now_seconds();
        }
    }

    fn index(&mut self, mac: MacAddr) -> Option<usize> {
        if self.at.len() != self.sightings.len() {
            // They were just read. A file that says more, or one twice, was written by somebody else.
            self.sightings.truncate(SIGHTINGS_MAX);
            self.sightings.sort_by_key(|one| one.mac);
            self.sightings.dedup_by_key(|one| one.mac);
            self.at = self.sightings.iter().enumerate().map(|(at, one)| (one.mac, at)).collect();
        }
        self.at.get(&mac).copied()
    }

    fn of(&mut self, mac: MacAddr) -> &mut Sighting {
        let fresh = Sighting {
            mac,
            uuid: None,
            hostname: None,
            program: String::new(),
            architecture: String::new(),
            asked_at_seconds: 0,
            asked: 0,
            given: String::new(),
            result: None,
            result_at_seconds: 0,
        };
        let index = match self.index(mac) {
            Some(index) => index,
            None if self.sightings.len() < SIGHTINGS_MAX => {
                self.sightings.push(fresh);
                self.sightings.len() - 1
            }
            None => {
                let oldest = self.sightings.iter().enumerate();
                let oldest = oldest.min_by_key(|(_, one)| one.asked_at_seconds);
                let index = oldest.map_or(0, |(index, _)| index);
                let former = std::mem::replace(&mut self.sightings[index], fresh);
                self.at.remove(&former.mac);
                index
            }
        };
        self.at.insert(mac, index);
        &mut self.sightings[index]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use boot::dhcp::Architecture;

    use super::*;

    fn client(number: u32) -> Client {
        let [a, b, c, d] = number.to_be_bytes();
        Client {
            mac: MacAddr([2, 0, a, b, c, d]),
            uuid: Some(Uuid::from_u128(7)),
            program: Program::Pxe,
            architecture: Architecture::Bios,
            hostname: Some("same".into()),
        }
    }

    #[test]
    fn there_are_no_more_than_there_may_be_and_each_machine_is_one() {
        let mut all = Sightings::default();
        for number in 0..3 * SIGHTINGS_MAX as u32 {
            assert!(all.asked(&client(number), "nothing"));
        }
        assert_eq!(all.all().len(), SIGHTINGS_MAX);
        let last = client(3 * SIGHTINGS_MAX as u32 - 1);
        assert!(!all.asked(&last, "nothing") && all.asked(&last, "ipxe.efi"));
        assert_eq!(all.all().len(), SIGHTINGS_MAX);
        assert!(all.sightings.iter().enumerate().all(|(at, one)| all.at[&one.mac] == at));
    }

    #[test]
    fn they_are_the_same_after_a_restart() {
        let mut all = Sightings::default();
        all.asked(&client(1), "ipxe.efi");
        all.asked(&client(2), "nothing");
        all.got(client(1).mac, "has the kernel");
        all.got(client(9).mac, "has the kernel");
        let text = serde_json::to_string(&all).unwrap();
        let mut read: Sightings = serde_json::from_str(&text).unwrap();
        assert_eq!(read.all(), all.all());
        read.asked(&client(1), "ipxe.efi");
        let one = read.all().into_iter().find(|one| one.mac == client(1).mac).unwrap();
        assert_eq!((one.asked, one.result.as_deref()), (2, Some("has the kernel")));
        assert_eq!(read.all().len(), 2);
    }
}

//! Which slot each disk of a booted node has: the node forgets it when it is off, and whoever uses a disk by its address
//! would take another for it.
//!
//! A hello proves nothing. So one changes nothing that is known: a disk is given a slot once, and a slot to one disk.

use std::collections::BTreeMap;

use boot::node::{SLOTS_MAX, Slots};
use control::boot::Machine;
use serde::{Deserialize, Serialize};

/// The file.
pub const FILE: &str = "slots.json";

/// Of all nodes, by the names of their files.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct AllSlots {
    nodes: BTreeMap<String, Slots>,
}

impl AllSlots {
    /// Those of a machine's disks: what its file says, and what was learned of others.
    pub fn of(&self, machine: &Machine) -> Slots {
        let mut slots = machine.slots.clone();
        if let Some(learned) = self.nodes.get(&machine.file_name()) {
            add(&mut slots, learned);
        }
        slots
    }

    /// Whether a machine says something that isn't known yet, and may be.
    pub fn lacks(&self, machine: &Machine, said: &Slots) -> bool {
        let known = self.of(machine);
        said.iter().any(|(disk, slot)| fits(&known, disk, *slot))
    }

    /// Takes note of what isn't known yet of a machine; and of none that isn't among `all` any more.
    pub fn learn(&mut self, machine: &Machine, said: &Slots, all: &[Machine]) {
        let name = machine.file_name();
        if !self.nodes.contains_key(&name) {
            self.nodes.retain(|known, _| all.iter().any(|machine| machine.file_name() == *known));
        }
        let new = add(&mut self.of(machine), said);
        self.nodes.entry(name).or_default().extend(new);
    }
}

/// Adds those of disks that have none yet, as far as they are free; which these are.
pub fn add(known: &mut Slots, others: &Slots) -> Slots {
    let mut added = Slots::new();
    for (disk, slot) in others {
        if fits(known, disk, *slot) {
            known.insert(disk.clone(), *slot);
            added.insert(disk.clone(), *slot);
        }
    }
    added
}

fn fits(known: &Slots, disk: &str, slot: u8) -> bool {
    let is_free = !known.contains_key(disk) && !known.values().any(|given| *given == slot);
    is_free && known.len() < SLOTS_MAX
}

#[cfg(test)]
mod tests {
    use aoe_wire::MacAddr;

    use super::*;

    fn machine(last: u8) -> Machine {
        Machine::new(None, vec![MacAddr([2, 0, 0, 0, 0, last])])
    }

    fn slots(given: &[(&str, u8)]) -> Slots {
        given.iter().map(|(disk, slot)| ((*disk).to_owned(), *slot)).collect()
    }

    #[test]
    fn what_is_known_stays_whatever_a_hello_says() {
        let (one, mut all) = (machine(7), AllSlots::default());
        all.learn(&one, &slots(&[("a", 0), ("b", 1)]), &[machine(7)]);
        for said in [slots(&[("a", 1), ("b", 0)]), slots(&[("c", 1)]), slots(&[])] {
            assert!(!all.lacks(&one, &said), "{said:?}");
            all.learn(&one, &said, &[machine(7)]);
        }
        let added = slots(&[("a", 2), ("c", 3)]);
        assert!(all.lacks(&one, &added));
        all.learn(&one, &added, &[machine(7)]);
        assert_eq!(all.of(&one), slots(&[("a", 0), ("b", 1), ("c", 3)]));
        assert_eq!(all.of(&machine(8)), Slots::new());
    }

    #[test]
    fn what_a_machines_file_says_counts_before_what_was_learned() {
        let (one, mut all) = (machine(7), AllSlots::default());
        all.learn(&one, &slots(&[("a", 0), ("b", 1)]), &[machine(7)]);
        let told = Machine { slots: slots(&[("a", 1), ("c", 2)]), ..one };
        assert_eq!(all.of(&told), slots(&[("a", 1), ("c", 2)]));
        let said = slots(&[("b", 2), ("d", 3)]);
        assert!(all.lacks(&told, &said));
        all.learn(&told, &said, &[machine(7)]);
        assert_eq!(all.of(&told), slots(&[("a", 1), ("c", 2), ("d", 3)]));
        assert!(!all.lacks(&told, &said));
    }

    #[test]
    fn what_is_known_of_machines_that_are_no_more_goes() {
        let mut all = AllSlots::default();
        for number in 0..10 {
            all.learn(&machine(number), &slots(&[("a", 0)]), &[machine(number)]);
        }
        assert_eq!(all.nodes.len(), 1);
        let many: Slots = (0..=255).map(|slot| (format!("{slot:03}"), slot)).collect();
        all.learn(&machine(9), &many, &[machine(9)]);
        assert_eq!(all.of(&machine(9)).len(), SLOTS_MAX);
    }
}

//! What a copy of a boot server's machines brings back, beside those that are known here. Pure. What the copy doesn't say of
//! a machine stays, and so do its key and whom it obeys; what both say is the copy's only where somebody wants that.

use control::boot::Machine;

use super::slots::{AllSlots, add};

/// What becomes of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It isn't known here.
    New,
    /// It is known here, and gets what isn't known of it.
    Filled,
    /// What is known of it here says something else.
    Differs,
    /// All is known.
    Same,
}

/// A machine of a copy.
#[derive(Debug, PartialEq, Eq)]
pub struct Restored {
    /// As it would be.
    pub machine: Machine,
    /// As it is.
    pub former: Option<Machine>,
    /// What becomes of it.
    pub fate: Fate,
}

/// What would become of each; or why nothing can, in words.
pub fn judge(
    copied: Vec<Machine>,
    here: &[Machine],
    slots: &AllSlots,
) -> Vec<Result<Restored, String>> {
    let mut taken: Vec<Machine> = Vec::new();
    let mut judged = Vec::new();
    for copy in copied {
        let same: Vec<&Machine> = here.iter().filter(|one| are_one(one, &copy)).collect();
        let former = match same.as_slice() {
            [] => None,
            [one] => Some(*one),
            several => {
                let names: Vec<String> = several.iter().map(|one| one.called()).collect();
                judged.push(Err(format!("{} is {} here", copy.called(), names.join(" and "))));
                continue;
            }
        };
        let others = here.iter().filter(|one| Some(*one) != former).chain(&taken);
        let in_the_way = others.filter_map(|other| Some((other.called(), clash(other, &copy)?)));
        if let Some((other, what)) = in_the_way.into_iter().next() {
            judged.push(Err(format!("{}: {what} is that of {other}", copy.called())));
            continue;
        }
        let restored = merge(copy, former, slots);
        taken.push(restored.machine.clone());
        judged.push(Ok(restored));
    }
    judged
}

fn are_one(here: &Machine, copy: &Machine) -> bool {
    match (here.uuid, copy.uuid) {
        (Some(here), Some(copy)) => here == copy,
        _ => here.macs.iter().any(|mac| copy.macs.contains(mac)),
    }
}

/// What two machines can't both have.
fn clash(one: &Machine, other: &Machine) -> Option<String> {
    if one.uuid.is_some() && one.uuid == other.uuid {
        return Some("its UUID".to_owned());
    }
    if let Some(mac) = one.macs.iter().find(|mac| other.macs.contains(mac)) {
        return Some(format!("its address {mac}"));
    }
    if let Some(name) = one.name.as_ref().filter(|name| other.name.as_ref() == Some(name)) {
        return Some(format!("its name {name}"));
    }
    let shelf = one.shelf.filter(|shelf| other.shelf == Some(*shelf))?;
    Some(format!("its shelf {shelf}"))
}

fn merge(copy: Machine, former: Option<&Machine>, slots: &AllSlots) -> Restored {
    let Some(former) = former else {
        return Restored { machine: copy, former: None, fate: Fate::New };
    };
    let known = Machine { slots: slots.of(former), ..former.clone() };
    let mut machine = Machine {
        version: copy.version,
        name: copy.name.or_else(|| known.name.clone()),
        uuid: copy.uuid.or(known.uuid),
        macs: known.macs.clone(),
        shelf: copy.shelf.or(known.shelf),
        supervisors: known.supervisors.clone(),
        configuration: copy.configuration.or_else(|| known.configuration.clone()),
        slots: copy.slots,
        boot: copy.boot.or_else(|| known.boot.clone()),
        // What is kept here may be the only copy of a secret.
        identity: known.identity.clone().or(copy.identity),
    };
    machine.macs.extend(copy.macs.iter().filter(|mac| !known.macs.contains(mac)));
    add(&mut machine.slots, &known.slots);
    let stays = |is_kept: bool, is_known: bool| is_kept || !is_known;
    let overwrites_nothing = stays(machine.name == known.name, known.name.is_some())
        && stays(machine.shelf == known.shelf, known.shelf.is_some())
        && stays(machine.configuration == known.configuration, known.configuration.is_some())
        && stays(machine.boot == known.boot, known.boot.is_some())
        && known.slots.iter().all(|(disk, slot)| machine.slots.get(disk) == Some(slot));
    let fate = match (machine == known, overwrites_nothing) {
        (true, _) => Fate::Same,
        (false, true) => Fate::Filled,
        (false, false) => Fate::Differs,
    };
    Restored { machine, former: Some(former.clone()), fate }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use aoe_wire::MacAddr;
    use boot::node::{Kept, Slots};
    use control::boot::{Assignment, KeptIdentity};
    use uuid::Uuid;

    use super::*;

    fn machine(last: u8) -> Machine {
        Machine {
            name: Some(format!("node-{last}")),
            shelf: Some(last.into()),
            configuration: Some("# mine\n".into()),
            boot: Some(Assignment::Local),
            ..Machine::new(Some(Uuid::from_u128(last.into())), vec![MacAddr([2, 0, 0, 0, 0, last])])
        }
    }

    fn judged(copy: Machine, here: &[Machine]) -> Result<Restored, String> {
        judge(vec![copy], here, &AllSlots::default()).remove(0)
    }

    fn fate(copy: Machine, here: &[Machine]) -> Fate {
        judged(copy, here).unwrap().fate
    }

    #[test]
    fn what_is_known_here_stays_and_what_is_not_is_filled_in() {
        let copy = machine(7);
        assert_eq!(fate(copy.clone(), &[]), Fate::New);
        assert_eq!(fate(copy.clone(), &[machine(8)]), Fate::New);
        assert_eq!(fate(copy.clone(), std::slice::from_ref(&copy)), Fate::Same);
        let key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=".parse().unwrap();
        let identity =
            |secret: &str| Some(KeptIdentity::of(key, &Kept::Plain { secret: secret.to_owned() }));
        // It was accepted here meanwhile.
        let accepted = Machine {
            configuration: None,
            identity: identity("own"),
            supervisors: vec![key],
            ..copy.clone()
        };
        let filled = judged(Machine { identity: identity("x"), ..copy.clone() }, &[accepted]);
        let filled = filled.unwrap();
        assert_eq!(
            (filled.fate, &filled.machine.configuration),
            (Fate::Filled, &copy.configuration)
        );
        assert_eq!(filled.machine.identity, identity("own"));
        assert_eq!(filled.machine.supervisors, [key]);
        for here in [
            Machine { name: Some("other".into()), ..copy.clone() },
            Machine { shelf: Some(8), ..copy.clone() },
            Machine { configuration: Some("# other\n".into()), ..copy.clone() },
            Machine { boot: Some(Assignment::Nothing), ..copy.clone() },
        ] {
            assert_eq!(fate(copy.clone(), std::slice::from_ref(&here)), Fate::Differs, "{here:?}");
            // What the copy doesn't say stays.
            let silent = Machine::new(copy.uuid, copy.macs.clone());
            assert_eq!(fate(silent, &[here]), Fate::Same);
        }
    }

    #[test]
    fn slots_that_were_learned_count_as_well() {
        let slots = |given: &[(&str, u8)]| -> Slots {
            given.iter().map(|(disk, slot)| ((*disk).to_owned(), *slot)).collect()
        };
        let (here, mut learned) = (machine(7), AllSlots::default());
        learned.learn(&here, &slots(&[("a", 0)]), std::slice::from_ref(&here));
        for (copied, fate) in [
            (slots(&[("a", 0)]), Fate::Same),
            (slots(&[]), Fate::Same),
            (slots(&[("b", 1)]), Fate::Filled),
            (slots(&[("a", 1)]), Fate::Differs),
            (slots(&[("b", 0)]), Fate::Differs),
        ] {
            let copy = Machine { slots: copied.clone(), ..here.clone() };
            let judged = judge(vec![copy], std::slice::from_ref(&here), &learned).remove(0);
            assert_eq!(judged.unwrap().fate, fate, "{copied:?}");
        }
    }

    #[test]
    fn nothing_comes_in_the_way_of_another_machine() {
        let own = machine(7);
        for copy in [
            Machine { name: own.name.clone(), ..machine(8) },
            Machine { shelf: own.shelf, ..machine(8) },
            Machine { macs: own.macs.clone(), ..machine(8) },
        ] {
            let why = judged(copy, std::slice::from_ref(&own)).unwrap_err();
            assert!(why.contains("is that of node-7"), "{why}");
        }
        // Nor do those of one copy.
        let two = vec![own.clone(), Machine { shelf: own.shelf, ..machine(8) }];
        let judged = judge(two, &[], &AllSlots::default());
        assert!(judged[0].is_ok() && judged[1].is_err(), "{judged:?}");
        // One that was known by its address alone is the same.
        let by_mac = Machine { uuid: None, ..own.clone() };
        let whole = judge(vec![own.clone()], &[by_mac], &AllSlots::default()).remove(0).unwrap();
        assert_eq!((whole.fate, whole.machine), (Fate::Filled, own));
    }
}

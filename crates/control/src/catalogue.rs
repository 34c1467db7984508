//! What the program tells by itself, each by its id: the same in the log (a field of the journal), in events and the
//! pools' history, in notifications and in `status`. Whoever reads one of them at night asks what it means; here it is,
//! once, for `etherpool explain`, the journal's catalogue and docs/messages.md, which are made of it.

use std::fmt::Write as _;

use serde::Serialize;

/// Something that may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its id.
    pub id: &'static str,
    /// What it is, in a few words.
    pub title: &'static str,
    /// What it means for data, and what to do.
    pub meaning: &'static str,
}

/// All entries, by id.
pub fn all() -> &'static [Entry] {
    ENTRIES
}

/// That of an id.
pub fn find(id: &str) -> Option<&'static Entry> {
    let place = ENTRIES.binary_search_by(|entry| entry.id.cmp(id)).ok()?;
    ENTRIES.get(place)
}

/// The page of the manual.
pub fn markdown() -> String {
    let mut page = PAGE_HEAD.to_owned();
    for Entry { id, title, meaning } in ENTRIES {
        // Nothing fails that is written to a string.
        let _ = write!(page, "\n## {id}\n\n**{title}.** {meaning}\n");
    }
    page
}

const PAGE_HEAD: &str = "\
# Messages

<!-- Made by `etherpool explain --markdown`; a test compares. -->

What etherpool tells by itself has an id: `etherpool events --json` and `pool history --json` have it as `event`, notifications and `status --json` as `kind`, \
and the journal in the field `ETHERPOOL_EVENT`, beside `ETHERPOOL_POOL`, `ETHERPOOL_VOLUME` and `ETHERPOOL_DISK`:

```sh
journalctl ETHERPOOL_EVENT=disk-out
journalctl -u etherpool-supervisor ETHERPOOL_POOL=tank
journalctl -x -u etherpool-supervisor       # with what is below
etherpool explain disk-out                  # without the journal
```

What is told as something that lasts (`status`, notifications) is told again every day, and when it is over.
";

const fn entry(id: &'static str, title: &'static str, meaning: &'static str) -> Entry {
    Entry { id, title, meaning }
}

/// In the order of their ids.
const ENTRIES: &[Entry] = &[
    entry(
        "address-conflict",
        "Another machine answers for the address of an export",
        "Clients take both disks for one, which destroys what is on them. Give one of the two another shelf or slot, or \
         switch it off; the machine's MAC is in the message.",
    ),
    entry(
        "address-free",
        "An address that another machine had is free",
        "The export that waited for it answers from now on.",
    ),
    entry(
        "command",
        "Somebody had something changed",
        "Who, what, and whether it was done. It stays in the pool's history.",
    ),
    entry(
        "conversion-begun",
        "A volume gets another layout",
        "It is served meanwhile. `etherpool pool jobs` shows how far it is; `etherpool pool cancel` takes it back.",
    ),
    entry(
        "conversion-done",
        "All of a volume has the layout that it was to have",
        "It survives what that layout promises.",
    ),
    entry(
        "disk-ageing",
        "A drive wears out, by what it counts itself",
        "All that is on it can be read. Replace it before it dies: `etherpool pool evacuate` moves what it has to the others \
         while the pool is used, `etherpool pool replace` to a new one; pull it when that is done, not before.",
    ),
    entry(
        "disk-errors",
        "A disk gave what doesn't match its checksum, or couldn't be read",
        "What had another copy was given right and written anew. One such block in years is ordinary; many, or of one disk again \
         and again, are a drive, cable or memory that fails: see its SMART values, and evacuate it.",
    ),
    entry(
        "disk-failing",
        "A drive says itself that it is failing",
        "It can be read for now. Replace it: `etherpool pool evacuate --wait`, and take it out when that says that it may be pulled, \
         not before.",
    ),
    entry(
        "disk-gone",
        "A disk of a pool is out of reach, or was taken out of use because of what it did",
        "The pool goes on without it, as far as its layouts allow. Where it isn't back within the pool's `rebuild-delay`, its share is \
         rebuilt on the others by itself. See cable, power and machine; a dead disk is replaced by `etherpool pool replace`.",
    ),
    entry(
        "disk-health",
        "What a drive counts of itself is worse than before, or good again",
        "The counts are SMART's. See disk-ageing and disk-failing.",
    ),
    entry(
        "disk-in",
        "A disk takes part again",
        "What it missed is copied to it (resync), and until then it counts for what it has.",
    ),
    entry(
        "disk-moved",
        "A disk was found on another machine than before",
        "That is allowed, where a pool's key or you say so. Copies of something may be on one machine now: see domains-joined.",
    ),
    entry(
        "disk-offline",
        "A disk is out of use because somebody wanted that",
        "It isn't rebuilt, however long that lasts. `etherpool disk online` takes it in again.",
    ),
    entry(
        "disk-online",
        "A disk that was offline is to take part again",
        "What it missed is copied to it as soon as it is in reach.",
    ),
    entry(
        "disk-out",
        "A pool goes on without a disk",
        "It didn't answer in time, or answered with errors. Nothing that was acknowledged is lost as long as copies are left; \
         `etherpool status` says how many more failures the pool survives. When it answers again it is taken in by itself.",
    ),
    entry(
        "disk-refused",
        "A disk isn't used, because it isn't what it should be",
        "It stays as it is. The message says what is wrong with it (a copy of another disk, another size, a label that can't be read, a \
         machine that it doesn't belong to), and what to do.",
    ),
    entry(
        "disk-rolled-back",
        "A disk came back with older contents than it had",
        "Somebody put back a snapshot of it, or its cache lied and power failed. All of it is copied anew. A drive that does so \
         again isn't to be trusted: switch its write cache off, or replace it.",
    ),
    entry(
        "disk-slow",
        "A disk is much slower than the pool's others",
        "Volumes are as slow as it is. It may be about to fail, rebuild something by itself, or have a bad cable.",
    ),
    entry(
        "domains-joined",
        "Copies of something are in one failure domain",
        "A disk moved, or labels changed. One failure takes all of those copies: `etherpool pool rebalance` moves them apart.",
    ),
    entry(
        "engine-down",
        "The engine doesn't answer",
        "No pool is served; requests wait, and nothing that was acknowledged is lost. It is started again by itself. Where that \
         lasts, the supervisor's log says why it ends.",
    ),
    entry(
        "interface-down",
        "A network interface isn't used",
        "What is reached through it alone is away. See cable, switch and `ip link`.",
    ),
    entry(
        "job-begun",
        "A disk is emptied, or groups move",
        "The pool is used meanwhile. `etherpool pool jobs` shows rate and time left.",
    ),
    entry(
        "job-done",
        "A job has done what it was to do",
        "After a rebuild the pool survives what it did before; of an evacuated disk nothing is needed any more.",
    ),
    entry(
        "job-waits",
        "A job doesn't go on",
        "It lacks space, disks or machines, which the message names, and goes on by itself when these are there.",
    ),
    entry(
        "log-space",
        "A volume's log is nearly full, and stays so",
        "Writers wait until there is room; nothing is lost. The disks are slower than what is written, or one of them hangs.",
    ),
    entry(
        "lost",
        "More happened than was told",
        "Whoever listens was too slow, or too much happened at once. What is wrong is in `etherpool status` all the same.",
    ),
    entry(
        "lost-blocks",
        "Contents of a volume are lost",
        "No copy of them is right, unless a disk that is away has one: bring it back first. Reading them is an error, everything else \
         can be read, and what is written anew there is whole again. `etherpool events` names volume and bytes.",
    ),
    entry(
        "not-exported",
        "A disk or file of a machine isn't given to the network",
        "The message says why: it is in use, has a file system or partitions, or can't be opened. It is looked at again by itself, what a disk \
         carries whenever the disk was written. One that couldn't be read is tried again when its node is told to: `systemctl reload etherpool-node`.",
    ),
    entry(
        "owned",
        "A pool was opened",
        "By whom, in which epoch, and who owned it before. An owner that wasn't yours was another supervisor.",
    ),
    entry(
        "pool-degraded",
        "A pool has less redundancy than it should",
        "All of it is served. `etherpool status` says what is missing and how many more failures it survives.",
    ),
    entry(
        "pool-not-open",
        "A pool of ours isn't there, or too little of it",
        "Nothing of it can be used until enough of its disks are in reach; what is on them stays as it is. The message says which are \
         missing. If they are gone for good, `etherpool pool release` gives it up, and nobody is told of it any more.",
    ),
    entry(
        "pool-space",
        "Little space is free in a pool",
        "Volumes have their space and can be written. What a dead disk had may find no place: add a disk by `etherpool pool extend`.",
    ),
    entry(
        "pool-spare",
        "What a pool keeps free for a loss isn't enough",
        "After the next loss something may stay with a copy less. Add a disk, or keep less free by `etherpool pool set`.",
    ),
    entry(
        "pool-state",
        "A pool's state changed",
        "From active to degraded, suspended and so on. What follows from it is told beside it.",
    ),
    entry(
        "pool-suspended",
        "Requests of a pool wait",
        "Too many of its disks are away. No request fails; all go on when disks are back.",
    ),
    entry(
        "pool-taken",
        "Another supervisor took a pool",
        "It is served there. What was acknowledged here is on its disks. Where nobody meant that: see who imported it, and whether that machine is \
         yours.",
    ),
    entry(
        "pool-votes",
        "Votes of a pool are out of reach",
        "With half of them or more away it waits. Votes move to other disks by themselves, where there are machines for that.",
    ),
    entry(
        "process-ended",
        "A process of the supervisor ended by itself",
        "It is started again. Volumes that its engine serves wait meanwhile. Where it happens again: the lines before say why, and we would like to know.",
    ),
    entry(
        "rebuild-waits",
        "What a disk had isn't rebuilt",
        "It would be after the pool's `rebuild-delay`, but there is too little space, or too many machines are away at once, which looks more like a cable than \
         like dead disks. The message says which.",
    ),
    entry(
        "repaired",
        "A block was written anew from another copy",
        "It didn't match its checksum or couldn't be read. Whoever read it was given what is right.",
    ),
    entry(
        "resynced",
        "A disk that was away has everything again",
        "The pool survives what it did before.",
    ),
    entry(
        "rolled-back",
        "A disk came back with older contents than it had",
        "See disk-rolled-back.",
    ),
    entry(
        "scrub-begun",
        "Everything is read and compared",
        "The pool is used meanwhile. `etherpool pool jobs` shows how far it is.",
    ),
    entry(
        "scrub-damage",
        "The last scrub found what it couldn't repair",
        "Some contents may be lost: see lost-blocks. What had a right copy was repaired.",
    ),
    entry(
        "scrub-done",
        "Everything was read and compared",
        "How many blocks were bad, and how many of these were repaired.",
    ),
    entry(
        "scrub-overdue",
        "The last scrub is too long ago",
        "Nothing is known to be wrong, but what rots isn't found before it is read. `etherpool pool scrub` begins one.",
    ),
    entry(
        "service-failed",
        "A mount, device or FTP server isn't there",
        "What is in the pool stays as it is. It is tried again by itself; the message says what is in its way.",
    ),
    entry(
        "structure-damaged",
        "A label, vote or other structure of a disk isn't as it was written, and stays so",
        "Other disks have the same. The drive or cable fails: see its SMART values, and evacuate it.",
    ),
    entry(
        "structure-repaired",
        "A label, checksum block or other structure was written anew from a good copy",
        "Nothing is lost by it. Where one disk has more of that, it fails.",
    ),
    entry(
        "supervisor-trouble",
        "Something of the supervisor itself isn't as it should be",
        "Volumes are served as before. The message says what, and what to do.",
    ),
    entry(
        "test",
        "Nothing is wrong",
        "Somebody tries whether messages arrive (`etherpool alert test`).",
    ),
    entry("unrepairable", "No copy of some bytes of a volume is right", "See lost-blocks."),
    entry(
        "volume-redundancy",
        "A volume survives fewer failures than its layout promises",
        "All of it can be read. It is made whole by itself where there is space: `etherpool pool jobs`.",
    ),
    entry("volume-serving", "A volume serves", "What its log held was put in its place."),
    entry(
        "volume-suspended",
        "A volume's requests wait",
        "The message says for what. None of them fails.",
    ),
    entry(
        "volume-together",
        "Copies of a volume are in one failure domain",
        "Nothing is lost by it; what fails with that domain has no other copy. `etherpool pool rebalance` moves them apart, where there \
         is another one with space.",
    ),
    entry(
        "votes-moved",
        "Other disks vote, and have the metadata",
        "It happens by itself when disks die or machines are added. A majority of those that vote is needed to open the pool.",
    ),
    entry(
        "watchdog",
        "The engine's loop doesn't turn",
        "systemd isn't told that all is well, and starts the supervisor anew if that lasts. A disk or kernel call that hangs in it is a fault of ours: we would like \
         the lines before.",
    ),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;
    use crate::alerts::Kind;

    /// All that a type of events knows, as serde says where it is told of another.
    fn event_ids() -> Vec<String> {
        let unknown = serde_json::json!({ "event": "no such event" });
        let said = serde_json::from_value::<pool::PoolEvent>(unknown).unwrap_err().to_string();
        let ids: Vec<String> = said.split('`').skip(3).step_by(2).map(str::to_owned).collect();
        assert!(ids.len() > 20, "{said}");
        ids
    }

    #[test]
    fn the_manual_has_this() {
        let page = include_str!("../../../docs/messages.md");
        assert!(page == markdown(), "etherpool explain --markdown >docs/messages.md");
    }

    /// Told by processes in their logs, or of messages themselves.
    const OTHERS: [&str; 7] = [
        "address-conflict",
        "address-free",
        "lost",
        "not-exported",
        "process-ended",
        "test",
        "watchdog",
    ];

    #[test]
    fn what_is_told_has_an_entry_and_nothing_else() {
        let kinds = Kind::ALL.iter().map(|kind| kind.name().to_owned());
        let told = event_ids().into_iter().chain(kinds).chain(OTHERS.map(str::to_owned));
        let told: BTreeSet<String> = told.collect();
        let explained: BTreeSet<String> = ENTRIES.iter().map(|one| one.id.to_owned()).collect();
        assert_eq!(told, explained);
    }

    #[test]
    fn entries_are_found_and_read_as_sentences() {
        for pair in ENTRIES.windows(2) {
            assert!(pair[0].id < pair[1].id, "{} after {}", pair[1].id, pair[0].id);
        }
        for one in ENTRIES {
            assert_eq!(find(one.id), Some(one));
            assert!(!one.title.ends_with('.') && one.meaning.ends_with(['.', ')']), "{}", one.id);
            for (begin, _) in
                one.meaning.match_indices("See ").chain(one.meaning.match_indices("see "))
            {
                let word =
                    one.meaning[begin + 4..].split([' ', '.', ',', ':', ';']).next().unwrap();
                assert!(!word.contains('-') || find(word).is_some(), "{} points to {word}", one.id);
            }
        }
    }
}

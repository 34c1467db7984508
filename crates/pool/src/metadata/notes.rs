//! What others keep in a pool, so that it goes where the pool goes: texts by name, of several keepers, of which none changes
//! or hides what another one keeps. The pool makes nothing of them. They are properties of the pool (docs/format.md), which
//! every checkpoint holds whole: so there is little room for all together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::{MetaRecord, Metadata};
use crate::format::NAME_BYTES_MAX;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What begins the properties' names; the keeper follows, and behind a point the note's name.
pub(crate) const KEY: &str = "note-";
/// Longest text.
pub const NOTE_BYTES_MAX: usize = 16 << 10;
/// Digits of a keeper.
const KEEPER_DIGITS: usize = 16;
/// Longest name, so that the property has one.
const NOTE_NAME_BYTES_MAX: usize = NAME_BYTES_MAX - KEY.len() - KEEPER_DIGITS - ".".len();
/// Of all notes of a pool, with the names of their properties.
pub const NOTES_BYTES_MAX: usize = 128 << 10;
/// Longest name of the machine that keeps some.
const HOST_BYTES_MAX: usize = 64;
/// Names of notes that there was no room for, of those that are told.
const LEFT_OUT_MAX: usize = 64;
/// Who has more notes than this has them of another making: the rest isn't told.
const TOLD_BYTES_MAX: usize = 4 * NOTES_BYTES_MAX;

/// Who keeps something: a random number of his own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^[0-9a-f]{16}$"))]
pub struct KeeperId(pub u64);

impl fmt::Display for KeeperId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for KeeperId {
    type Err = NotAKeeper;

    fn from_str(text: &str) -> Result<KeeperId, NotAKeeper> {
        let number = u64::from_str_radix(text, 16).map(KeeperId).map_err(|_| NotAKeeper)?;
        // One keeper has one name.
        (number.to_string() == text).then_some(number).ok_or(NotAKeeper)
    }
}

/// Text that is no keeper's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id has sixteen hexadecimal digits")]
pub struct NotAKeeper;

block::serde_as_text!(KeeperId);

/// What a keeper has in a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeptNotes {
    /// The keeper.
    pub keeper: KeeperId,
    /// The machine that it was on when they last changed.
    pub host: String,
    /// When that was, by that machine's clock: seconds since 1970.
    pub at_secs: u64,
    /// How many there was no room for, or that are there as they were before.
    pub left_out: u64,
    /// What the keeper calls this state of them.
    pub mark: u64,
    /// Texts by name.
    pub notes: BTreeMap<String, String>,
}

/// What a keeper wants to have in a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepNotes {
    /// The keeper.
    pub keeper: KeeperId,
    /// The machine that it is on.
    pub host: String,
    /// Now, in seconds since 1970.
    pub at_secs: u64,
    /// What it calls this state of its notes, and no other.
    pub mark: u64,
    /// All states of its notes that it knows of. What is in a state of which it knows nothing isn't overwritten: somebody of
    /// the same id has kept that, or it has forgotten it.
    pub known: BTreeSet<u64>,
    /// These are all; else those that it doesn't name stay.
    pub are_all: bool,
    /// Texts by name.
    pub notes: BTreeMap<String, String>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotesKept {
    /// Whether anything had to be committed.
    pub changed: bool,
    /// Whether something else is there, in a state that isn't known to the keeper. Nothing was done.
    pub is_unknown: bool,
    /// Some of those that there was no room for; what was kept of them before stays.
    pub left_out: Vec<String>,
}

/// Where a property belongs: to which keeper, and to which of its notes; none is what is kept of itself.
fn place_of(key: &str) -> Option<(KeeperId, Option<&str>)> {
    let rest = key.strip_prefix(KEY)?;
    let (keeper, name) = match rest.split_once('.') {
        Some((keeper, name)) => (keeper, Some(name)),
        None => (rest, None),
    };
    Some((keeper.parse().ok()?, name))
}

fn key_of(keeper: KeeperId, name: Option<&str>) -> String {
    let name = name.map(|name| format!(".{name}")).unwrap_or_default();
    format!("{KEY}{keeper}{name}")
}

/// What a note takes.
fn bytes_of(keeper: KeeperId, name: &str, text: &str) -> usize {
    key_of(keeper, Some(name)).len() + text.len()
}

fn is_name(name: &str) -> bool {
    let is_one = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=NOTE_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_one)
}

/// What is kept of a keeper itself: when something of it changed last, what there was no room for, and the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct About {
    at_secs: u64,
    left_out: u64,
    mark: u64,
    host: String,
}

impl About {
    fn to_text(&self) -> String {
        let About { at_secs, left_out, mark, host } = self;
        format!("{at_secs}\t{left_out}\t{mark}\t{host}")
    }

    /// What can't be read says nothing.
    fn parse(text: &str) -> About {
        let mut fields = text.splitn(4, '\t');
        let mut number = || fields.next()?.parse().ok();
        let [at_secs, left_out, mark] =
            [number(), number(), number()].map(Option::unwrap_or_default);
        About { at_secs, left_out, mark, host: cut(fields.next().unwrap_or_default()) }
    }
}

fn cut(host: &str) -> String {
    let mut short = String::new();
    for c in host.chars().filter(|c| !c.is_control() && !block::is_format(*c)) {
        if short.len() + c.len_utf8() > HOST_BYTES_MAX {
            break;
        }
        short.push(c);
    }
    short
}

impl Metadata {
    fn note_properties(&self) -> impl Iterator<Item = (&String, &String)> {
        let from = self.properties().range(KEY.to_owned()..);
        from.take_while(|(key, _)| key.starts_with(KEY))
    }

    /// What there is, by keeper.
    pub fn notes(&self) -> Vec<KeptNotes> {
        let mut all: BTreeMap<KeeperId, KeptNotes> = BTreeMap::new();
        let mut bytes = 0;
        for (key, text) in self.note_properties() {
            bytes += key.len() + text.len();
            let Some((keeper, name)) = place_of(key).filter(|_| bytes <= TOLD_BYTES_MAX) else {
                continue;
            };
            let kept =
                all.entry(keeper).or_insert_with(|| KeptNotes { keeper, ..Default::default() });
            match name {
                Some(name) => {
                    kept.notes.insert(name.to_owned(), text.clone());
                }
                None => {
                    let About { at_secs, left_out, mark, host } = About::parse(text);
                    (kept.at_secs, kept.left_out) = (at_secs, left_out);
                    (kept.mark, kept.host) = (mark, host);
                }
            }
        }
        all.into_values().collect()
    }

    /// The records by which a keeper has what it wants to have, as far as there is room; none where it has that already.
    pub(crate) fn records_to_keep(&self, want: &KeepNotes) -> (Vec<MetaRecord>, NotesKept) {
        let keeper = want.keeper;
        let own: BTreeMap<&str, &str> = self
            .note_properties()
            .filter_map(|(key, text)| match place_of(key)? {
                (of, Some(name)) if of == keeper => Some((name, text.as_str())),
                _ => None,
            })
            .collect();
        let before = self.properties().get(&key_of(keeper, None)).map(|text| About::parse(text));
        let others = self.note_properties().filter(|(key, _)| {
            place_of(key).is_none_or(|(of, name)| of != keeper && name.is_some())
        });
        let mut room = NOTES_BYTES_MAX
            .saturating_sub(others.map(|(key, text)| key.len() + text.len()).sum::<usize>());
        let mut takes = |name: &str, text: &str| {
            let bytes = bytes_of(keeper, name, text);
            let fits = is_name(name) && text.len() <= NOTE_BYTES_MAX && bytes <= room;
            room -= if fits { bytes } else { 0 };
            fits
        };
        let unnamed = own.iter().filter(|(name, _)| !want.notes.contains_key(**name));
        let mut kept: BTreeMap<&str, &str> = unnamed
            .filter(|(name, text)| !want.are_all && takes(name, text))
            .map(own_pair)
            .collect();
        let mut lacking = Vec::new();
        for (name, text) in &want.notes {
            if takes(name, text) {
                kept.insert(name, text);
            } else {
                lacking.push(name);
            }
        }
        // What was there is better than nothing.
        for name in &lacking {
            if let Some((name, text)) = own.get_key_value(name.as_str())
                && takes(name, text)
            {
                kept.insert(name, text);
            }
        }
        let set = |name: &str, value: Option<&str>| MetaRecord::PoolPropertySet {
            key: key_of(keeper, Some(name)),
            value: value.map(str::to_owned),
        };
        let gone = own.keys().filter(|name| !kept.contains_key(**name)).map(|name| set(name, None));
        let new = kept.iter().filter(|(name, text)| own.get(**name) != Some(*text));
        let mut records: Vec<MetaRecord> =
            gone.chain(new.map(|(name, text)| set(name, Some(text)))).collect();
        let about = About {
            at_secs: want.at_secs,
            left_out: lacking.len() as u64,
            mark: want.mark,
            host: cut(&want.host),
        };
        let is_said = before.as_ref().is_some_and(|before| before.left_out == about.left_out);
        if !records.is_empty() || !is_said && !kept.is_empty() {
            records.push(MetaRecord::PoolPropertySet {
                key: key_of(keeper, None),
                value: (!kept.is_empty()).then(|| about.to_text()),
            });
        }
        let is_known = match &before {
            Some(before) => before.mark == want.mark || want.known.contains(&before.mark),
            None => own.is_empty(),
        };
        if !records.is_empty() && !is_known {
            return (Vec::new(), NotesKept { is_unknown: true, ..NotesKept::default() });
        }
        let left_out = lacking.into_iter().take(LEFT_OUT_MAX).cloned().collect();
        let changed = !records.is_empty();
        (records, NotesKept { changed, is_unknown: false, left_out })
    }

    /// The records by which all is gone that a keeper has.
    pub(crate) fn records_without_notes_of(&self, keeper: KeeperId) -> Vec<MetaRecord> {
        let keys = self.note_properties().map(|(key, _)| key);
        let own = keys.filter(|key| place_of(key).is_some_and(|(of, _)| of == keeper));
        own.map(|key| MetaRecord::PoolPropertySet { key: key.clone(), value: None }).collect()
    }
}

fn own_pair<'a>((name, text): (&&'a str, &&'a str)) -> (&'a str, &'a str) {
    (*name, *text)
}

/// Whether a property of a pool is a note: what is in it is somebody else's concern.
pub fn is_note(key: &str) -> bool {
    key.starts_with(KEY)
}

#[cfg(test)]
#[path = "notes_tests.rs"]
mod tests;

//! The kernel's modules, by the lists that depmod(8) writes (modules.dep(5)): what a module needs, which module is meant
//! by the alias of a device, and in which order all that is loaded.
//!
//! The builder of an image reads them to choose drivers, and PID 1 of a node to load them: so what is chosen is what will
//! be found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::Error;

/// What depends on what.
pub const DEPENDENCIES: &str = "modules.dep";
/// What is loaded before and after, where it is there.
pub const SOFT_DEPENDENCIES: &str = "modules.softdep";
/// Which devices and other names mean which module.
pub const ALIASES: &str = "modules.alias";
/// What the kernel has without loading it.
pub const BUILT_IN: &str = "modules.builtin";
/// The same, with more words.
pub const BUILT_IN_WORDS: &str = "modules.builtin.modinfo";

/// Soft dependencies lead to others, and may lead in circles.
const SOFT_DEPTH_MAX: usize = 8;

/// All that is known of the modules of a kernel. Names and aliases are as [`normalized`] makes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modules {
    /// By name: the file, below the kernel's directory, and the names of what it needs, in the order of loading.
    files: BTreeMap<String, (String, Vec<String>)>,
    built_in: BTreeSet<String>,
    /// What to load before and after it.
    soft: BTreeMap<String, (Vec<String>, Vec<String>)>,
    /// By what an alias begins with, up to its first wildcard: so that of thousands few are compared.
    aliases: BTreeMap<String, Vec<(String, String)>>,
}

/// A name or alias in the one form in which they are compared: `-` is `_`, but in brackets.
pub fn normalized(name: &str) -> String {
    let mut is_in_brackets = false;
    let one = |letter| {
        match letter {
            '[' => is_in_brackets = true,
            ']' => is_in_brackets = false,
            _ => {}
        }
        if letter == '-' && !is_in_brackets { '_' } else { letter }
    };
    name.chars().map(one).collect()
}

/// The name of the module in a file: `kernel/drivers/net/virtio_net.ko.xz` is `virtio_net`.
pub fn name_of(file: &str) -> Option<String> {
    let name = file.rsplit('/').next()?;
    let (name, rest) = name.split_once(".ko")?;
    (rest.is_empty() || rest.starts_with('.')).then(|| normalized(name))
}

impl Modules {
    /// Reads the lists in a kernel's directory of modules. Only what depends on what must be there.
    pub fn read(directory: &Path) -> Result<Modules, Error> {
        let list = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
        let dependencies = directory.join(DEPENDENCIES);
        let dependencies = match std::fs::read_to_string(&dependencies) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NoModules(directory.to_owned()));
            }
            Err(error) => return Err(Error::file("cannot read", &dependencies)(error)),
        };
        Ok(Modules::parse(&dependencies, &list(SOFT_DEPENDENCIES), &list(ALIASES), &list(BUILT_IN)))
    }

    /// Reads lists. A line that isn't understood says nothing.
    pub fn parse(dependencies: &str, soft: &str, aliases: &str, built_in: &str) -> Modules {
        let mut modules = Modules::default();
        for line in dependencies.lines() {
            let Some((file, needs)) = line.split_once(':') else { continue };
            let Some(name) = name_of(file) else { continue };
            // What is needed by all others comes last.
            let needs = needs.split_ascii_whitespace().rev().filter_map(name_of).collect();
            modules.files.insert(name, (file.to_owned(), needs));
        }
        modules.built_in = built_in.lines().filter_map(name_of).collect();
        for line in soft.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some("softdep"), Some(name)) = (words.next(), words.next()) else { continue };
            let (before, after) = modules.soft.entry(normalized(name)).or_default();
            let mut to = None;
            for word in words {
                match (word, to) {
                    ("pre:", _) => to = Some(false),
                    ("post:", _) => to = Some(true),
                    (word, Some(false)) => before.push(normalized(word)),
                    (word, Some(true)) => after.push(normalized(word)),
                    // Of words without either nobody says when.
                    (_, None) => {}
                }
            }
        }
        for line in aliases.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some("alias"), Some(alias), Some(name), None) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            let alias = normalized(alias);
            let (begins, rest) = alias.split_at(alias.find(['*', '?', '[']).unwrap_or(alias.len()));
            let one = (rest.to_owned(), normalized(name));
            modules.aliases.entry(begins.to_owned()).or_default().push(one);
        }
        modules
    }

    /// Names and files, below the kernel's directory.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(name, (file, _))| (name.as_str(), file.as_str()))
    }

    /// Whether the kernel has it without loading anything.
    pub fn is_built_in(&self, name: &str) -> bool {
        self.built_in.contains(&normalized(name))
    }

    /// The modules that a name or alias means; several drivers may want one device.
    pub fn meant_by(&self, alias: &str) -> Vec<&str> {
        let alias = normalized(alias);
        if let Some((name, _)) = self.files.get_key_value(&alias) {
            return vec![name];
        }
        let begins = (0..=alias.len()).filter_map(|end| alias.get(..end).zip(alias.get(end..)));
        let mut found: Vec<&str> = Vec::new();
        for (begins, rest) in begins {
            for (pattern, name) in self.aliases.get(begins).into_iter().flatten() {
                if matches(pattern, rest)
                    && let Some((name, _)) = self.files.get_key_value(name)
                    && !found.contains(&name.as_str())
                {
                    found.push(name);
                }
            }
        }
        found
    }

    /// The files that are to be loaded, one after the other, for a name or alias.
    pub fn order_for(&self, alias: &str) -> Vec<&str> {
        let mut order = Vec::new();
        for name in self.meant_by(alias) {
            self.add(name, SOFT_DEPTH_MAX, &mut order);
        }
        order
    }

    fn add<'m>(&'m self, name: &str, depth: usize, order: &mut Vec<&'m str>) {
        let Some((file, needs)) = self.files.get(name) else { return };
        if order.contains(&file.as_str()) {
            return;
        }
        let soft = self.soft.get(name).filter(|_| depth > 0);
        let soft = |is_after: bool| {
            let lists = soft.map(|(before, after)| if is_after { after } else { before });
            lists.into_iter().flatten().flat_map(|alias| self.meant_by(alias)).collect::<Vec<_>>()
        };
        for needed in needs {
            // Their own needs are in the list already, but not what goes softly with them.
            self.add(needed, depth.saturating_sub(1), order);
        }
        for before in soft(false) {
            self.add(before, depth - 1, order);
        }
        if !order.contains(&file.as_str()) {
            order.push(file);
        }
        for after in soft(true) {
            self.add(after, depth - 1, order);
        }
    }

    /// These modules, by name, with all that goes with them.
    pub fn closed<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> BTreeSet<String> {
        let mut order = Vec::new();
        for name in names {
            self.add(&normalized(name), SOFT_DEPTH_MAX, &mut order);
        }
        order.into_iter().filter_map(name_of).collect()
    }
}

/// Of a list's lines, those that are about these modules; for an image that has no others.
pub fn only(list: &str, text: &str, chosen: &BTreeSet<String>) -> String {
    let is_chosen = |line: &&str| match list {
        DEPENDENCIES => line
            .split_once(':')
            .and_then(|(file, _)| name_of(file))
            .is_some_and(|name| chosen.contains(&name)),
        // `alias PATTERN MODULE`, `softdep MODULE …`.
        ALIASES => line.split(' ').nth(2).is_some_and(|name| chosen.contains(&normalized(name))),
        SOFT_DEPENDENCIES => {
            line.split(' ').nth(1).is_some_and(|name| chosen.contains(&normalized(name)))
        }
        _ => true,
    };
    text.lines().filter(is_chosen).map(|line| format!("{line}\n")).collect()
}

/// fnmatch(3), as far as aliases have it: `*`, `?`, and sets in brackets.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut to) = (0, 0);
    // Where to go on when what comes after the last `*` doesn't fit: one letter further.
    let mut again: Option<(usize, usize)> = None;
    loop {
        let fits = match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                again = Some((at, to));
                continue;
            }
            Some(b'[') => {
                let end = pattern[at..].iter().position(|byte| *byte == b']');
                let fits = name
                    .get(to)
                    .zip(end)
                    .is_some_and(|(letter, end)| is_in_set(&pattern[at + 1..at + end], *letter));
                fits.then_some(end.unwrap_or(0) + 1)
            }
            Some(b'?') => name.get(to).map(|_| 1),
            Some(letter) => (name.get(to) == Some(letter)).then_some(1),
            None if to == name.len() => return true,
            None => None,
        };
        match (fits, again) {
            (Some(length), _) => {
                at += length;
                to += 1;
            }
            (None, Some((pattern_at, name_at))) if name_at < name.len() => {
                again = Some((pattern_at, name_at + 1));
                (at, to) = (pattern_at, name_at + 1);
            }
            (None, _) => return false,
        }
    }
}

/// Whether a letter is one of `0-9A`.
fn is_in_set(mut set: &[u8], letter: u8) -> bool {
    loop {
        match set {
            [first, b'-', last, rest @ ..] => {
                if (*first..=*last).contains(&letter) {
                    return true;
                }
                set = rest;
            }
            [one, rest @ ..] => {
                if *one == letter {
                    return true;
                }
                set = rest;
            }
            [] => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/drivers/net/virtio_net.ko: kernel/net/core/failover.ko kernel/drivers/virtio/virtio_ring.ko\n\
        kernel/net/core/failover.ko:\n\
        kernel/drivers/virtio/virtio_ring.ko.xz:\n\
        kernel/lib/libcrc32c.ko:\n\
        kernel/crypto/crc32c_generic.ko.zst:\n\
        kernel/arch/x86/crypto/crc32c-intel.ko:\n\
        kernel/a.ko: kernel/lib/libcrc32c.ko\n\
        kernel/b.ko:\nnonsense\n: x\n";
    const SOFT: &str = "# words\nsoftdep libcrc32c pre: crc32c\nsoftdep a post: b\nsoftdep b pre: a\nsoftdep cifs gcm\n";
    const ALIAS: &str = "alias crc32c crc32c_intel\nalias crc32c crc32c-generic\nalias crc32c crc32c_generic\n\
        alias virtio:d00000001v* virtio_net\nalias pci:v00001AF4d*sv*sd*bc02sc*i* virtio_net\n\
        alias usb:v0525p[A-C]4A?d* b\nalias crypto-x b\n";

    fn modules() -> Modules {
        Modules::parse(DEP, SOFT, ALIAS, "kernel/drivers/block/loop.ko\n")
    }

    #[test]
    fn what_is_needed_is_loaded_before() {
        let modules = modules();
        assert_eq!(
            modules.order_for("virtio-net"),
            [
                "kernel/drivers/virtio/virtio_ring.ko.xz",
                "kernel/net/core/failover.ko",
                "kernel/drivers/net/virtio_net.ko"
            ]
        );
        // The soft dependencies of what is needed; and a circle ends.
        assert_eq!(
            modules.order_for("a"),
            [
                "kernel/arch/x86/crypto/crc32c-intel.ko",
                "kernel/crypto/crc32c_generic.ko.zst",
                "kernel/lib/libcrc32c.ko",
                "kernel/a.ko",
                "kernel/b.ko"
            ]
        );
        assert!(modules.order_for("nothing").is_empty());
        assert!(modules.is_built_in("loop") && !modules.is_built_in("a"));
    }

    #[test]
    fn devices_find_their_drivers() {
        let modules = modules();
        for (alias, found) in [
            ("virtio:d00000001v00001AF4", vec!["virtio_net"]),
            ("virtio:d00000002v00001AF4", vec![]),
            ("pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00", vec!["virtio_net"]),
            ("pci:v00001AF4d00001041sv00001AF4sd00001100bc01sc00i00", vec![]),
            ("usb:v0525pB4A7d1", vec!["b"]),
            ("usb:v0525pD4A7d1", vec![]),
            ("crypto_x", vec!["b"]),
            ("crypto-x", vec!["b"]),
            ("é", vec![]),
        ] {
            assert_eq!(modules.meant_by(alias), found, "{alias}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, name) in
            [("*", ""), ("a*b*c", "axbxbc"), ("*[0-9]", "a7"), ("[x-]", "-"), ("??", "ab")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("", "a"), ("a", ""), ("a*b", "a"), ("[", "["), ("[a", "a"), ("[]", "a"), ("?", "")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn an_image_has_the_lists_of_its_own_modules() {
        let chosen = modules().closed(["virtio_net"]);
        let texts = [(DEPENDENCIES, DEP), (ALIASES, ALIAS), (SOFT_DEPENDENCIES, SOFT)]
            .map(|(list, text)| only(list, text, &chosen));
        assert_eq!(texts.each_ref().map(|text| text.lines().count()), [3, 2, 0]);
        let smaller = Modules::parse(&texts[0], &texts[2], &texts[1], "");
        let alias = "virtio:d00000001v00001AF4";
        assert_eq!(smaller.order_for(alias), modules().order_for(alias));
    }
}

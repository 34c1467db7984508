//! The rules: arrows between crates, purity, `unsafe`, the second reader of disks, lengths of files.

use std::collections::BTreeSet;

use crate::paths::named;
use crate::source::{Crate, Module};

/// Which of our crates each may depend on. In dependency order, so that there can be no cycle.
const ARROWS: [(&str, &[&str]); 18] = [
    ("block", &[]),
    ("runtime", &["block"]),
    ("seal", &["block"]),
    ("aoe-wire", &["block", "seal"]),
    ("boot", &["block", "aoe_wire"]),
    ("aoe-target", &["block", "runtime", "seal", "aoe_wire"]),
    ("aoe-initiator", &["block", "runtime", "seal", "aoe_wire"]),
    ("pool", &["block", "runtime", "seal"]),
    ("os", &["block", "runtime", "aoe_wire", "aoe_target"]),
    ("tls", &[]),
    ("frontend", &["block", "runtime", "os", "tls"]),
    ("control", &["block", "runtime", "seal", "aoe_wire", "boot", "aoe_target", "pool"]),
    ("client", &["block", "seal", "pool", "control", "tls"]),
    ("terminal", &[]),
    ("image", &["block"]),
    ("lab", &["block", "seal", "pool", "os", "frontend", "control", "terminal"]),
    (
        "sim",
        &["block", "runtime", "seal", "aoe_wire", "boot", "aoe_target", "aoe_initiator", "pool"],
    ),
    (
        "etherpool",
        &[
            "block",
            "runtime",
            "seal",
            "aoe_wire",
            "boot",
            "aoe_target",
            "aoe_initiator",
            "boot",
            "pool",
            "os",
            "tls",
            "frontend",
            "control",
            "client",
            "terminal",
            "lab",
            "image",
        ],
    ),
];
/// These use nothing of ours, and nothing of ours uses them.
const TOOLS: [&str; 1] = ["architecture"];

/// Crates that name no socket, file, thread or clock: what they need of the world is given to them, so that
/// the simulator runs what production runs.
const PURE: [&str; 9] = [
    "block",
    "runtime",
    "seal",
    "aoe-wire",
    "boot",
    "aoe-target",
    "aoe-initiator",
    "pool",
    "control",
];
/// What they may use of other people's crates: none of these reaches the world.
const PURE_DEPENDENCIES: [&str; 21] = [
    "arrayvec",
    "aws_lc_rs",
    "base64",
    "crc_fast",
    "ed25519_dalek",
    "futures",
    "rand",
    "rpds",
    // What a type is as JSON, told by the type: values and text alone.
    "schemars",
    "serde",
    "serde_json",
    "siphasher",
    "smoltcp",
    "snow",
    "thiserror",
    "toml",
    "tpm2_protocol",
    "tracing",
    "uuid",
    "zerocopy",
    "zeroize",
];
/// What they must not name of the standard library.
const IMPURE: [&[&str]; 16] = [
    &["std", "net"],
    &["std", "fs"],
    &["std", "thread"],
    &["std", "process"],
    &["std", "env"],
    &["std", "os"],
    &["std", "io", "stdin"],
    &["std", "io", "stdout"],
    &["std", "io", "stderr"],
    &["std", "time", "Instant"],
    &["std", "time", "SystemTime"],
    &["std", "time", "UNIX_EPOCH"],
    // Their order doesn't follow from the seed.
    &["std", "collections", "HashMap"],
    &["std", "collections", "HashSet"],
    &["std", "collections", "hash_map"],
    &["std", "collections", "hash_set"],
];
/// Of these, what is only a value.
const VALUES: [&[&str]; 4] = [
    &["std", "net", "SocketAddr"],
    &["std", "net", "SocketAddrV4"],
    &["std", "net", "IpAddr"],
    &["std", "net", "Ipv4Addr"],
];
/// Macros of it that reach the world.
const IMPURE_MACROS: [&str; 4] = ["println", "print", "eprintln", "eprint"];
/// What draws lots that don't follow from a run's seed. The simulator names none of these either.
const UNSEEDED: [&[&str]; 8] = [
    // Draws which of its branches is looked at first; `select_biased` doesn't.
    &["futures", "select"],
    &["futures", "stream_select"],
    &["std", "hash", "RandomState"],
    &["rand", "rng"],
    &["rand", "random"],
    &["rand", "rngs", "ThreadRng"],
    &["rand", "rngs", "OsRng"],
    &["rand", "rngs", "SmallRng", "from_os_rng"],
];
/// Macros that do.
const UNSEEDED_MACROS: [&str; 2] = ["select", "stream_select"];

/// Lines of a file before its tests: a longer one is hard to read as a whole.
const LINES_MAX: usize = 600;

/// What isn't as it should be, in words.
pub fn check(crates: &[Crate]) -> Vec<String> {
    let mut faults = Vec::new();
    let ours: BTreeSet<String> = crates.iter().map(|one| one.name.replace('-', "_")).collect();
    for one in crates {
        faults.extend(check_arrows(one, &ours));
        for (file, lines) in one.files.iter().filter(|(_, lines)| **lines > LINES_MAX) {
            faults.push(format!(
                "{}/{} has {lines} lines before its tests: split it by operation",
                one.name,
                file.display()
            ));
        }
        for (path, module) in &one.modules {
            let place = || {
                format!(
                    "{} ({})",
                    path.join("::").replacen("crate", &one.name, 1),
                    module.file.display()
                )
            };
            if module.has_unsafe && one.name != "os" {
                faults.push(format!("{}: unsafe outside of os", place()));
            }
            if PURE.contains(&one.name.as_str()) {
                for what in impure(one, path, module) {
                    faults.push(format!("{}: {what}, but {} is pure", place(), one.name));
                }
            }
            if PURE.contains(&one.name.as_str()) || one.name == "sim" {
                for what in unseeded(one, path, module) {
                    faults.push(format!("{}: {what}, whose lots no seed decides", place()));
                }
            }
            if one.name == "pool" && path.get(1).is_some_and(|name| name == "check") {
                let forbidden = |name: &&Vec<String>| {
                    name[0] == "crate"
                        && name.get(1).is_some_and(|name| name == "engine" || name == "allocate")
                };
                for name in named(one, path, module).iter().filter(forbidden) {
                    faults.push(format!(
                        "{}: {}: the second reader of disks shares nothing with the engine",
                        place(),
                        name.join("::")
                    ));
                }
            }
        }
    }
    faults
}

fn check_arrows(one: &Crate, ours: &BTreeSet<String>) -> Vec<String> {
    let known = ARROWS.iter().find(|(name, _)| *name == one.name);
    let may = match known {
        Some((_, may)) => *may,
        None if TOOLS.contains(&one.name.as_str()) => &[],
        None => return vec![format!("{}: a crate that isn't in the table of arrows", one.name)],
    };
    let mut faults = Vec::new();
    for dependency in &one.dependencies {
        let is_ours = ours.contains(dependency);
        if is_ours && !may.contains(&dependency.as_str()) {
            faults.push(format!("{} must not depend on {dependency}", one.name));
        }
        let is_pure = PURE.contains(&one.name.as_str());
        if is_pure && !is_ours && !PURE_DEPENDENCIES.contains(&dependency.as_str()) {
            faults.push(format!("{} is pure and must not depend on {dependency}", one.name));
        }
    }
    faults
}

/// Whether a path is one of those places, or within one.
fn is_under(name: &[String], places: &[&[&str]]) -> bool {
    let is_in = |place: &&[&str]| {
        name.len() >= place.len() && name.iter().zip(place.iter()).all(|(a, b)| a == b)
    };
    places.iter().any(is_in)
}

/// What a module names whose lots don't follow from a seed.
fn unseeded(one: &Crate, path: &[String], module: &Module) -> Vec<String> {
    let named = named(one, path, module).into_iter().filter(|name| is_under(name, &UNSEEDED));
    let called = module.macros.iter().filter(|name| UNSEEDED_MACROS.contains(&name.as_str()));
    named
        .map(|name| format!("names {}", name.join("::")))
        .chain(called.map(|name| format!("calls {name}!")))
        .collect()
}

/// What a module of a pure crate names of the world.
fn impure(one: &Crate, path: &[String], module: &Module) -> Vec<String> {
    let mut found = Vec::new();
    for name in named(one, path, module) {
        if is_under(&name, &IMPURE) && !is_under(&name, &VALUES) {
            found.push(format!("names {}", name.join("::")));
        }
    }
    for (name, path) in &module.imports {
        let is_std = path.first().is_some_and(|first| first == "std");
        if is_std && path.len() == 1 {
            found.push(format!("imports all of std as {name}"));
        }
    }
    found.extend(
        module
            .macros
            .iter()
            .filter(|name| IMPURE_MACROS.contains(&name.as_str()))
            .map(|name| format!("prints by {name}!")),
    );
    found
}

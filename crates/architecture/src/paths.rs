//! What a path in a module means: imports, renames, globs and re-exports followed, as far as a crate's own
//! sources say.

use std::collections::BTreeSet;

use crate::source::{Crate, Module};

/// Re-exports of re-exports, at most.
const STEPS_MAX: usize = 16;
/// Globs of one module that a name comes through, one by the other: what a glob brings may name what another one is
/// of. Each may be tried for each, and what isn't known isn't known to be no module.
const GLOBS_MAX: usize = 2;

/// How far a path was followed.
#[derive(Clone, Copy, Default)]
struct Way {
    steps: usize,
    globs: usize,
}

impl Way {
    fn on(self) -> Way {
        Way { steps: self.steps + 1, ..self }
    }

    fn through_glob(self) -> Option<Way> {
        (self.globs < GLOBS_MAX).then(|| Way { globs: self.globs + 1, ..self.on() })
    }
}

/// All that a module names: paths that begin with `crate` (in this one) or with another crate's name.
pub fn named(of: &Crate, at: &[String], module: &Module) -> BTreeSet<Vec<String>> {
    let imported = module.imports.iter().map(|(_, path)| path);
    let mut found = BTreeSet::new();
    for path in imported.chain(&module.paths) {
        found.extend(resolve(of, at, path, Way::default()));
    }
    found
}

/// What a path written in the module `at` may mean: more than one thing where a glob is in scope.
fn resolve(of: &Crate, at: &[String], path: &[String], way: Way) -> Vec<Vec<String>> {
    let Some((first, rest)) = path.split_first() else { return Vec::new() };
    if way.steps > STEPS_MAX {
        return Vec::new();
    }
    let join = |front: &[String]| [front, rest].concat();
    match first.as_str() {
        "crate" => follow(of, path.to_vec(), way),
        "self" | "super" => {
            let ups = path.iter().take_while(|part| ["self", "super"].contains(&part.as_str()));
            let supers = ups.clone().filter(|part| *part == "super").count();
            let above = &at[..at.len().saturating_sub(supers).max(1)];
            follow(of, [above, &path[ups.count()..]].concat(), way)
        }
        _ => {
            let child = [at, std::slice::from_ref(first)].concat();
            if of.modules.contains_key(&child) {
                return follow(of, join(&child), way);
            }
            let Some(module) = of.modules.get(at) else { return vec![path.to_vec()] };
            let mut found = Vec::new();
            for (name, meant) in &module.imports {
                // An import of a crate under its own name means the crate.
                if name == first && meant.first() != Some(first) {
                    found.extend(resolve(of, at, &join(meant), way.on()));
                }
                if let Some(way) = way.through_glob().filter(|_| name == "*") {
                    let through = [meant.as_slice(), path].concat();
                    found.extend(resolve(of, at, &through, way));
                }
            }
            found.push(path.to_vec());
            found
        }
    }
}

/// Follows what modules on the way re-export: `crate::Engine` is `crate::engine::Engine`.
fn follow(of: &Crate, path: Vec<String>, way: Way) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    if way.steps <= STEPS_MAX {
        for length in 1..path.len() {
            let (at, rest) = path.split_at(length);
            let Some(module) = of.modules.get(at) else { break };
            if of.modules.contains_key(&path[..length + 1]) {
                continue;
            }
            for (name, meant) in &module.imports {
                if *name == rest[0] && meant.last() != Some(&"self".to_owned()) {
                    let through = [meant.as_slice(), &rest[1..]].concat();
                    found.extend(resolve(of, at, &through, way.on()));
                }
                if name == "*" {
                    let through = [meant.as_slice(), rest].concat();
                    found.extend(resolve(of, at, &through, way.on()));
                }
            }
            break;
        }
    }
    found.push(path);
    found
}

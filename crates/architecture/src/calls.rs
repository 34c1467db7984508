//! The calls that ARCHITECTURE.md follows: each names the files that a reader opens, in order, and the
//! functions in them. The files and functions must exist, and a call may touch only so many files.

use std::collections::BTreeSet;

use crate::source::Crate;

/// The section of ARCHITECTURE.md.
const SECTION: &str = "## Calls, followed";
/// Files of one call between its entry and the disk or the frame.
const FILES_MAX: usize = 15;
/// So many calls are promised.
const CALLS: usize = 4;

/// What of the section isn't true. In it only files (`crate/src/file.rs`) and functions of the file named
/// last (`function`, `Type::function`) stand between backticks.
pub fn check(map: &str, crates: &[Crate]) -> Vec<String> {
    let Some((_, section)) = map.split_once(SECTION) else {
        return vec![format!("ARCHITECTURE.md has no section \"{SECTION}\"")];
    };
    let section = section.split("\n## ").next().unwrap_or_default();
    let calls: Vec<&str> = section.split("\n### ").skip(1).collect();
    let mut faults = Vec::new();
    if calls.len() < CALLS {
        faults.push(format!("ARCHITECTURE.md follows {} calls, {CALLS} are promised", calls.len()));
    }
    for call in calls {
        let title = call.lines().next().unwrap_or_default();
        let mut files = BTreeSet::new();
        let mut file = "";
        let mut functions: Option<BTreeSet<&str>> = None;
        for code in call.split('`').skip(1).step_by(2) {
            if code.ends_with(".rs") {
                functions = functions_in(code, crates);
                if functions.is_none() {
                    faults.push(format!("{title}: there is no file {code}"));
                }
                file = code;
                files.insert(code);
            } else if functions.as_ref().is_some_and(|functions| !functions.contains(code)) {
                faults.push(format!("{title}: {file} has no function {code}"));
            }
        }
        if files.is_empty() || files.len() > FILES_MAX {
            faults.push(format!(
                "{title}: {} files, at least one and at most {FILES_MAX} are promised",
                files.len()
            ));
        }
    }
    faults
}

/// The functions in a file; `None` if no module stands in it.
fn functions_in<'a>(file: &str, crates: &'a [Crate]) -> Option<BTreeSet<&'a str>> {
    let (name, rest) = file.split_once('/')?;
    let one = crates.iter().find(|one| one.name == name)?;
    let here = || one.modules.values().filter(|module| module.file.to_str() == Some(rest));
    here().next()?;
    Some(here().flat_map(|module| &module.functions).map(String::as_str).collect())
}

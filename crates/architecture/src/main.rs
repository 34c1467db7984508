//! Holds the sources against what ARCHITECTURE.md says: which crate may know which, what pure crates name,
//! where `unsafe` is, how long a file may be, and that the functions of its followed calls exist. It reads
//! the sources as the compiler does (grouped and renamed imports, re-exports, `cfg(test)`), so that no way
//! of writing a path hides it.

mod calls;
mod paths;
mod rules;
mod source;

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    match check(&root) {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            faults.iter().for_each(|fault| eprintln!("architecture: {fault}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("architecture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// All that isn't as ARCHITECTURE.md says, in words.
fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let crates = source::load_workspace(&root.join("crates"))?;
    let mut faults = rules::check(&crates);
    let map = std::fs::read_to_string(root.join("ARCHITECTURE.md"))?;
    faults.extend(calls::check(&map, &crates));
    Ok(faults)
}

#[cfg(test)]
mod tests;

//! Completions and manual pages, made from the grammar itself so that they can't lag behind it.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use control::exit::Exit;

use super::{Failure, grammar};

/// Arguments of `completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page per command into this directory
    directory: Option<PathBuf>,
}

/// Prints completions.
pub fn completion(args: CompletionArgs) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut grammar(), "etherpool", &mut text);
    print_bytes(&text)?;
    Ok(Exit::Ok)
}

/// Prints the main manual page, or writes all.
pub fn man(args: ManArgs) -> Result<Exit, Failure> {
    let Some(directory) = args.directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(grammar()).render(&mut page).map_err(anyhow::Error::from)?;
        print_bytes(&page)?;
        return Ok(Exit::Ok);
    };
    std::fs::create_dir_all(&directory)
        .and_then(|()| clap_mangen::generate_to(grammar(), &directory))
        .with_context(|| format!("manual pages can't be written to {}", directory.display()))?;
    Ok(Exit::Ok)
}

fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    match std::io::stdout().write_all(bytes) {
        // Whoever reads has seen enough (`etherpool man | head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result.context("standard output")?),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pages_and_completions_cover_the_commands() {
        let directory = tempfile::tempdir().unwrap();
        man(ManArgs { directory: Some(directory.path().into()) }).unwrap();
        let page =
            std::fs::read_to_string(directory.path().join("etherpool-pool-create.1")).unwrap();
        assert!(page.contains("force\\-disk"), "{page}");
        let mut text = Vec::new();
        clap_complete::generate(clap_complete::Shell::Bash, &mut grammar(), "etherpool", &mut text);
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("reset-epoch") && text.contains("unexport"));
    }
}

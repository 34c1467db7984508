//! Completions and manual pages, made from the grammar itself so that they can't lag behind it.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command};
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
    clap_complete::generate(args.shell, &mut visible(), "etherpool", &mut text);
    print_bytes(&text)?;
    Ok(Exit::Ok)
}

/// The grammar without what is hidden from people, which completions would offer all the same. Nothing takes a command
/// out of one that has it, so it is put together anew.
fn visible() -> Command {
    let whole = grammar();
    let shown = whole.get_subcommands().filter(|one| !one.is_hide_set()).cloned();
    Command::new("etherpool")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Pools of network disks")
        .args(whole.get_arguments().cloned())
        .subcommands(shown)
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
        .map_err(|error| {
            let place = directory.display();
            Failure::of_file(format!("manual pages can't be written to {place}: {error}"), &error)
                .remedy("name a directory where you may write")
        })?;
    Ok(Exit::Ok)
}

/// Prints what describes the API.
pub fn openapi() -> Result<Exit, Failure> {
    let document = crate::services::openapi::document();
    print_bytes(format!("{document:#}\n").as_bytes())?;
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
        let text = completions(clap_complete::Shell::Bash);
        assert!(text.contains("reset-epoch") && text.contains("unexport"));
    }

    fn completions(shell: clap_complete::Shell) -> String {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut visible(), "etherpool", &mut text);
        String::from_utf8(text).unwrap()
    }

    /// What is there for the supervisor alone is offered to nobody; all else is, with its options.
    #[test]
    fn completions_offer_what_people_may_use() {
        let hidden = ["init", "engine", "services", "witnesses", "measure"];
        let named = |command: &Command, name: &str| command.find_subcommand(name).is_some();
        let (whole, shown) = (grammar(), visible());
        for name in hidden {
            assert!(named(&whole, name) && !named(&shown, name), "{name}");
        }
        for one in whole.get_subcommands().filter(|one| !one.is_hide_set()) {
            assert!(named(&shown, one.get_name()), "{}", one.get_name());
        }
        let deeper = whole.get_subcommands().filter(|one| !one.is_hide_set());
        assert!(deeper.flat_map(Command::get_subcommands).all(|one| !one.is_hide_set()));
        let options = |command: &Command| command.get_arguments().count();
        assert_eq!(options(&shown), options(&whole));
        for shell in
            [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish]
        {
            let text = completions(shell);
            for page in
                ["The supervisor's engine process", "_etherpool__engine", "etherpool,engine)"]
            {
                assert!(!text.contains(page), "{shell} has {page}");
            }
            assert!(text.contains("evacuate") && text.contains("failure-domain"), "{shell}");
        }
    }
}

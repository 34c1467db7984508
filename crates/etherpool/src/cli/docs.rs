//! Completions and manual pages, made from the grammar itself so that they can't lag behind it.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command};
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};
use control::exit::Exit;
use control::reference::{Reference, references};

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
    let files = || {
        std::fs::create_dir_all(&directory)?;
        clap_mangen::generate_to(grammar(), &directory)?;
        for reference in references() {
            let name = format!("etherpool-{}.5", reference.file);
            std::fs::write(directory.join(name), page_of(&reference))?;
        }
        Ok(())
    };
    files().map_err(|error| {
        let place = directory.display();
        Failure::of_file(format!("manual pages can't be written to {place}: {error}"), &error)
            .remedy("name a directory where you may write")
    })?;
    Ok(Exit::Ok)
}

/// The manual page of a configuration file.
fn page_of(reference: &Reference) -> String {
    let Reference { file, about, says, tables, example } = reference;
    let name = format!("etherpool-{file}");
    let version = concat!("etherpool ", env!("CARGO_PKG_VERSION"));
    let mut page = Roff::new();
    page.control("TH", [name.as_str(), "5", "", version]);
    page.control("SH", ["NAME"]).text([roman(format!("{name} - {about}"))]);
    page.control("SH", ["DESCRIPTION"]);
    for paragraph in *says {
        page.control("PP", []).text(spoken(paragraph));
    }
    for table in tables {
        let heading = match table.heading.as_str() {
            "" => "THE FILE ITSELF".to_owned(),
            heading if heading.starts_with('[') => heading.to_owned(),
            heading => format!("SETTINGS {}", heading.to_uppercase()),
        };
        page.control("SH", [heading.as_str()]).text(spoken(&table.says));
        for setting in &table.settings {
            let default = match &setting.default {
                Some(default) => format!(" (default: {default})"),
                None if setting.is_needed => " (needed)".to_owned(),
                None => String::new(),
            };
            let form = setting.form.replace('`', "");
            page.control("TP", []).text([
                bold(setting.key.as_str()),
                roman(" = "),
                italic(form),
                roman(default),
            ]);
            page.text(spoken(&setting.says));
        }
    }
    page.control("SH", ["EXAMPLE"]).control("EX", []);
    for line in example.lines() {
        page.text([roman(line)]);
    }
    page.control("EE", []);
    page.control("SH", ["SEE ALSO"]).text([bold("etherpool"), roman("(1)")]);
    page.render()
}

/// A text, in which what stands between backticks is as it is written.
fn spoken(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate().filter(|(_, part)| !part.is_empty());
    parts.map(|(at, part)| if at % 2 == 1 { bold(part) } else { roman(part) }).collect()
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
        for (file, key) in [
            ("supervisor", "passive\\-ports"),
            ("node", "damaged\\-state"),
            ("boot", "name\\-servers"),
        ] {
            let page = directory.path().join(format!("etherpool-{file}.toml.5"));
            let page = std::fs::read_to_string(page).unwrap();
            assert!(page.contains(key) && page.contains(".SH EXAMPLE"), "{page}");
        }
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

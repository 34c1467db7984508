//! `etherpool user`: lines for the FTP users file.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use control::exit::Exit;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::Failure;

/// Longest password that is taken.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Entries of the FTP users file.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Print a line for the users file; the password is asked for, or read from standard input
    Hash {
        /// The user's name
        user: String,
    },
}

/// Runs it.
pub fn run(command: UserCommand) -> Result<Exit, Failure> {
    let UserCommand::Hash { user } = command;
    check_user(&user)?;
    let password = read_password()?;
    let hash = frontend::ftp::hash_password(&password)
        .map_err(|error| anyhow::anyhow!("the password can't be hashed: {error}"))?;
    super::output::print(&format!("{user}:{hash}\n"))?;
    Ok(Exit::Ok)
}

fn check_user(user: &str) -> Result<(), Failure> {
    let good = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, ':' | '#' | '/');
    if user.is_empty() || user.len() > 64 || !user.chars().all(good) {
        return Err(Failure::usage(format!(
            "'{user}' is not a user name: 1 to 64 characters without space, ':', '#' and '/'"
        )));
    }
    Ok(())
}

fn read_password() -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return one_line();
    }
    let first = prompt("Password: ")?;
    if prompt("Again: ")? != first {
        bail!("the two passwords differ; nothing was made");
    }
    Ok(first)
}

/// Asks for what isn't shown.
pub fn prompt(text: &str) -> anyhow::Result<String> {
    eprint!("{text}");
    let _ = std::io::stderr().flush();
    let stdin = std::io::stdin();
    let before = tcgetattr(&stdin).context("the terminal's settings")?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &silent).context("the terminal's settings")?;
    let line = one_line();
    tcsetattr(&stdin, OptionalActions::Now, &before).context("the terminal's settings")?;
    eprintln!();
    line
}

fn one_line() -> anyhow::Result<String> {
    let mut line = String::new();
    std::io::Read::take(std::io::stdin().lock(), PASSWORD_BYTES_MAX as u64 + 2)
        .read_line(&mut line)
        .context("it can't be read")?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("nothing was said");
    }
    if password.len() > PASSWORD_BYTES_MAX {
        bail!("that is longer than {PASSWORD_BYTES_MAX} bytes");
    }
    Ok(password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_break_the_file_are_refused() {
        assert!(check_user("joe.w").is_ok());
        for wrong in ["", "a:b", "a b", "#a", "a\n", "a/b"] {
            assert!(check_user(wrong).is_err(), "{wrong:?}");
        }
    }
}

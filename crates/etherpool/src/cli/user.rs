//! `etherpool user`: lines for the FTP users file, and what stands in it.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use control::exit::Exit;
use frontend::ftp::UsersFileError;
use os::FileUser;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::Failure;
use crate::local_users::{GROUPS, USERS, group_id, user_ids};
use crate::supervisor::load_config;

/// Longest password that is taken.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Entries of the FTP users file.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Print a line for the users file; the password is asked for, or read from standard input
    Hash(HashArgs),
    /// List who stands in the users file, and as whom files are used
    List {
        /// The users file, if it isn't the one that the supervisor's configuration names
        file: Option<PathBuf>,
        /// The supervisor's configuration
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

/// Arguments of `user hash`.
#[derive(Debug, Args)]
pub struct HashArgs {
    /// The user's name
    user: String,
    /// The directory of the volume that is all the user sees, relative to its root
    #[arg(long, value_name = "DIRECTORY", default_value = "")]
    home: String,
    /// As whom files are used and made, by name or number [default: who owns the volume's root directory]
    #[arg(long, value_name = "USER")]
    uid: Option<String>,
    /// And as which group, by name or number [default: that of --uid]
    #[arg(long, value_name = "GROUP", requires = "uid")]
    gid: Option<String>,
    /// Further groups, by name or number
    #[arg(long, value_name = "GROUP,...", requires = "uid", value_delimiter = ',')]
    groups: Vec<String>,
}

/// Runs it.
pub fn run(command: UserCommand) -> Result<Exit, Failure> {
    match command {
        UserCommand::Hash(args) => hash(&args),
        UserCommand::List { file, config } => list(file, config),
    }
}

fn hash(args: &HashArgs) -> Result<Exit, Failure> {
    check_user(&args.user)?;
    let files = files_of(args)?;
    let password = read_password()?;
    let hash = frontend::ftp::hash_password(&password)
        .map_err(|error| anyhow::anyhow!("the password can't be hashed: {error}"))?;
    let line = line_of(&args.user, &hash, &args.home, files.as_ref());
    if !frontend::ftp::is_users_line(&line) {
        let why = format!("'{}' is no directory relative to the volume's root", args.home);
        return Err(Failure::usage(why));
    }
    super::output::print(&format!("{line}\n"))?;
    Ok(Exit::Ok)
}

fn line_of(user: &str, hash: &str, home: &str, files: Option<&FileUser>) -> String {
    let mut line = format!("{user}:{hash}");
    if !home.is_empty() {
        line += &format!(":{home}");
    }
    if let Some(FileUser { uid, gid, groups }) = files {
        line += &format!(":uid={uid}:gid={gid}");
        if !groups.is_empty() {
            line += &format!(":groups={}", numbers(groups));
        }
    }
    line
}

fn numbers(groups: &[u32]) -> String {
    groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// As whom files are used, in numbers: names are this machine's, and may mean others later.
fn files_of(args: &HashArgs) -> Result<Option<FileUser>, Failure> {
    let Some(user) = &args.uid else { return Ok(None) };
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let (users, groups) = (read(USERS), read(GROUPS));
    let known = user_ids(&users, user);
    let uid = known.map(|(uid, _)| uid).or_else(|| user.parse().ok());
    let uid = uid.ok_or_else(|| {
        Failure::usage(format!("there is no user {user} in {USERS}; say its number"))
    })?;
    let group = |name: &String| {
        group_id(&groups, name).or_else(|| name.parse().ok()).ok_or_else(|| {
            Failure::usage(format!("there is no group {name} in {GROUPS}; say its number"))
        })
    };
    let gid = match (&args.gid, known) {
        (Some(name), _) => group(name)?,
        (None, Some((_, gid))) => gid,
        (None, None) => {
            let why = format!("which group user {user} has isn't in {USERS}; say it by --gid");
            return Err(Failure::usage(why));
        }
    };
    let groups = args.groups.iter().map(group).collect::<Result<Vec<u32>, Failure>>()?;
    let files = FileUser { uid, gid, groups };
    if !files.is_valid() {
        return Err(Failure::usage(format!("{} is no user's or group's number", u32::MAX)));
    }
    Ok(Some(files))
}

/// What is wrong with a file of users.
pub fn wrong_users(error: UsersFileError) -> Failure {
    let message = error.to_string();
    match error {
        UsersFileError::Unreadable { source, .. } => Failure::of_file(message, &source)
            .remedy("name a users file that can be read, or make one: etherpool user hash"),
        _ => Failure::usage(message).remedy("correct the line: etherpool user hash prints one"),
    }
}

fn list(file: Option<PathBuf>, config: Option<PathBuf>) -> Result<Exit, Failure> {
    let file = match file {
        Some(file) => file,
        None => load_config(config.as_deref())?.ftp.users_file.ok_or_else(|| {
            Failure::usage("the supervisor's configuration names no users-file")
                .remedy("name the file")
        })?,
    };
    let users = frontend::ftp::list_users(&file).map_err(wrong_users)?;
    let mut text = format!("{:<20} {:>10} {:>10}  {:<20} HOME\n", "USER", "UID", "GID", "GROUPS");
    for user in &users {
        let (uid, gid, groups) = match user.files() {
            Some(FileUser { uid, gid, groups }) => {
                (uid.to_string(), gid.to_string(), numbers(groups))
            }
            None => ("owner".to_owned(), "owner".to_owned(), String::new()),
        };
        let home = user.home().display();
        text += &format!("{:<20} {uid:>10} {gid:>10}  {groups:<20} /{home}\n", user.name());
    }
    super::output::print(&text)?;
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
    fn a_line_says_what_was_said() {
        let args = |uid: Option<&str>, gid: Option<&str>, groups: &[&str]| HashArgs {
            user: "joe".into(),
            home: String::new(),
            uid: uid.map(str::to_owned),
            gid: gid.map(str::to_owned),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        };
        let of = |args: HashArgs| {
            files_of(&args).ok().map(|files| line_of("joe", "h", "in/here", files.as_ref()))
        };
        assert_eq!(of(args(None, None, &[])).as_deref(), Some("joe:h:in/here"));
        let root = of(args(Some("root"), None, &[]));
        assert_eq!(root.as_deref(), Some("joe:h:in/here:uid=0:gid=0"));
        let numbers = of(args(Some("4000000"), Some("7"), &["8", "root"]));
        assert_eq!(numbers.as_deref(), Some("joe:h:in/here:uid=4000000:gid=7:groups=8,0"));
        // Nobody guesses a group.
        assert_eq!(of(args(Some("4000000"), None, &[])), None);
        assert_eq!(of(args(Some("no-such-user"), Some("0"), &[])), None);
        assert_eq!(of(args(Some("4294967295"), Some("0"), &[])), None);
    }

    #[test]
    fn names_that_would_break_the_file_are_refused() {
        assert!(check_user("joe.w").is_ok());
        for wrong in ["", "a:b", "a b", "#a", "a\n", "a/b"] {
            assert!(check_user(wrong).is_err(), "{wrong:?}");
        }
    }
}

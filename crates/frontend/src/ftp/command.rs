//! What clients say: lines of bounded length, and the commands in them. Pure: bytes in, values out.
//!
//! RFC 959 with FEAT (2389), EPSV (2428), and SIZE, MDTM, MLST, MLSD and REST (3659). Paths are bytes,
//! as in the file system.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::listing::FACTS;
use super::reply::Reply;

/// Longest command, its path and the end of its line included.
pub(super) const LINE_BYTES_MAX: usize = 8 << 10;

/// What has arrived of a control connection and isn't served yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
}

/// A line of more than [`LINE_BYTES_MAX`]; the session can't go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LineTooLong;

impl Lines {
    /// How much may be added now: a line that is too long is never collected to its end.
    pub(super) fn room(&self) -> usize {
        (LINE_BYTES_MAX + 1).saturating_sub(self.bytes.len())
    }

    pub(super) fn add(&mut self, arrived: &[u8]) {
        self.bytes.extend_from_slice(arrived);
    }

    /// Whether nothing of what has arrived is left.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The first line that is complete, with its end, which stays.
    pub(super) fn first(&self) -> Result<Option<&[u8]>, LineTooLong> {
        match self.bytes.iter().position(|byte| *byte == b'\n') {
            Some(end) if end < LINE_BYTES_MAX => Ok(Some(&self.bytes[..=end])),
            None if self.bytes.len() <= LINE_BYTES_MAX => Ok(None),
            _ => Err(LineTooLong),
        }
    }

    /// Takes the first line that is complete.
    pub(super) fn take(&mut self) -> Result<Option<Vec<u8>>, LineTooLong> {
        let Some(end) = self.first()?.map(<[u8]>::len) else { return Ok(None) };
        Ok(Some(self.bytes.drain(..end).collect()))
    }
}

/// What a client wants.
#[derive(PartialEq, Eq)]
pub(super) enum Command {
    /// Something that has always the same answer, to everybody.
    Known(Reply),
    /// FEAT.
    Features,
    Quit,
    Abort,
    /// AUTH TLS.
    Tls,
    /// PBSZ 0, which comes before PROT and says nothing.
    NoBuffer,
    /// PROT: whether data goes by TLS.
    Protect(bool),
    User(String),
    Password(Vec<u8>),
    Status,
    /// PASV.
    PassiveV4,
    /// EPSV; the family that is asked for, 1 is IPv4 and 2 is IPv6.
    Passive(Option<u8>),
    /// EPSV ALL: from now on only EPSV.
    PassiveAlways,
    /// Where the next transfer starts.
    Restart(u64),
    PrintDirectory,
    ChangeDirectory(PathBuf),
    Size(PathBuf),
    ModificationTime(PathBuf),
    Facts(PathBuf),
    List(Listing, PathBuf),
    Retrieve(PathBuf),
    Store(PathBuf),
    Append(PathBuf),
    Delete(PathBuf),
    MakeDirectory(PathBuf),
    RemoveDirectory(PathBuf),
    RenameFrom(PathBuf),
    RenameTo(PathBuf),
}

/// How a directory is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    /// LIST: as `ls -l`.
    Long,
    /// NLST: names.
    Names,
    /// MLSD: facts for programs.
    Facts,
}

impl Command {
    /// The command of a line; the answer if there is none.
    pub(super) fn parse(line: &[u8]) -> Result<Command, Reply> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        // Telnet's signals come before ABOR, whole or in part.
        let start = line.iter().position(u8::is_ascii).unwrap_or(line.len());
        let line = &line[start..];
        let space = line.iter().position(|byte| *byte == b' ');
        let (verb, argument) = match space {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        let verb = verb.to_ascii_uppercase();
        if let Some(reply) = known(&verb, argument) {
            return Ok(Command::Known(reply));
        }
        let command = match verb.as_slice() {
            b"FEAT" => Command::Features,
            b"QUIT" => Command::Quit,
            b"AUTH" => match argument.to_ascii_uppercase().as_slice() {
                // SSL would have data go by TLS without PROT.
                b"TLS" | b"TLS-C" => Command::Tls,
                _ => return Err(Reply::new(504, "Only AUTH TLS.")),
            },
            b"PBSZ" => Command::NoBuffer,
            b"PROT" => match argument.to_ascii_uppercase().as_slice() {
                b"P" => Command::Protect(true),
                b"C" => Command::Protect(false),
                _ => return Err(Reply::new(536, "Only PROT P and PROT C.")),
            },
            b"ABOR" => Command::Abort,
            b"USER" => Command::User(text(argument)?.to_owned()),
            b"PASS" => Command::Password(argument.to_owned()),
            b"STAT" if argument.is_empty() => Command::Status,
            b"PASV" => Command::PassiveV4,
            b"EPSV" => match argument.to_ascii_uppercase().as_slice() {
                b"" => Command::Passive(None),
                b"1" => Command::Passive(Some(1)),
                b"2" => Command::Passive(Some(2)),
                b"ALL" => Command::PassiveAlways,
                _ => return Err(Reply::new(522, "Network protocol not supported, use (1,2)")),
            },
            b"REST" => Command::Restart(text(argument)?.trim().parse().map_err(|_| malformed())?),
            b"PWD" | b"XPWD" => Command::PrintDirectory,
            b"CWD" | b"XCWD" => Command::ChangeDirectory(path(argument)?),
            b"CDUP" | b"XCUP" => Command::ChangeDirectory("..".into()),
            b"SIZE" => Command::Size(path(argument)?),
            b"MDTM" => Command::ModificationTime(path(argument)?),
            b"MLST" => Command::Facts(path_or_here(argument)?),
            b"MLSD" => Command::List(Listing::Facts, path_or_here(argument)?),
            b"NLST" => Command::List(Listing::Names, path_or_here(without_options(argument))?),
            b"LIST" => Command::List(Listing::Long, path_or_here(without_options(argument))?),
            b"RETR" => Command::Retrieve(path(argument)?),
            b"STOR" => Command::Store(path(argument)?),
            b"APPE" => Command::Append(path(argument)?),
            b"DELE" => Command::Delete(path(argument)?),
            b"MKD" | b"XMKD" => Command::MakeDirectory(path(argument)?),
            b"RMD" | b"XRMD" => Command::RemoveDirectory(path(argument)?),
            b"RNFR" => Command::RenameFrom(path(argument)?),
            b"RNTO" => Command::RenameTo(path(argument)?),
            _ => return Err(Reply::new(500, "Unknown command.")),
        };
        Ok(command)
    }

    /// Whether it may come between REST and its transfer.
    pub(super) fn prepares(&self) -> bool {
        use Command::{Features, Known, Passive, PassiveAlways, PassiveV4};
        matches!(self, Known(_) | Features | Passive(_) | PassiveAlways | PassiveV4)
    }

    /// Whether somebody who is logged in reaches the volume with it.
    pub(super) fn uses_volume(&self) -> bool {
        use Command::{Abort, NoBuffer, Password, PrintDirectory, Protect, Quit, Restart, Status};
        use Command::{Tls, User};
        let session = matches!(
            self,
            Quit | Abort
                | User(_)
                | Password(_)
                | Status
                | Restart(_)
                | PrintDirectory
                | Tls
                | NoBuffer
                | Protect(_)
        );
        !session && !self.prepares()
    }
}

/// The answer to what depends on nothing.
fn known(verb: &[u8], argument: &[u8]) -> Option<Reply> {
    let argument = argument.to_ascii_uppercase();
    let reply = match (verb, argument.as_slice()) {
        (b"NOOP", _) => Reply::new(200, "OK"),
        (b"SYST", _) => Reply::new(215, "UNIX Type: L8"),
        (b"HELP", _) => Reply::new(214, "RFC 959 and 3659; FEAT tells more."),
        (b"OPTS", b"UTF8" | b"UTF8 ON" | b"UTF-8" | b"UTF-8 ON") => {
            Reply::new(200, "Always in UTF-8 mode.")
        }
        (b"OPTS", _) => Reply::new(501, "No such option."),
        // Nothing is ever converted.
        (b"TYPE", b"I" | b"A" | b"A N" | b"L 8") => Reply::new(200, "Always in binary mode."),
        (b"MODE", b"S") => Reply::new(200, "Stream mode."),
        (b"STRU", b"F") => Reply::new(200, "File structure."),
        (b"TYPE" | b"MODE" | b"STRU", _) => Reply::new(504, "Only TYPE I, MODE S and STRU F."),
        (b"ALLO" | b"ACCT", _) => Reply::new(202, "Not needed."),
        // A server that connects to where it is told attacks others for its clients.
        (b"PORT" | b"EPRT", _) => Reply::new(502, "Active mode is not offered; use EPSV or PASV."),
        (b"SITE" | b"STOU" | b"SMNT" | b"REIN", _) => Reply::new(502, "Not offered."),
        (b"STAT", [_, ..]) => Reply::new(504, "Use LIST or MLST."),
        _ => return None,
    };
    Some(reply)
}

/// What FEAT tells.
pub(super) fn features(with_tls: bool) -> Reply {
    let facts = format!("MLST {FACTS}");
    let always = ["EPSV", "MDTM", facts.as_str(), "REST STREAM", "SIZE", "TVFS", "UTF8"];
    let tls: &[&str] = if with_tls { &["AUTH TLS", "PBSZ", "PROT"] } else { &[] };
    Reply::lines(211, "Extensions supported:", &[tls, &always].concat(), "END")
}

fn malformed() -> Reply {
    Reply::new(501, "That is no argument for this command.")
}

fn text(argument: &[u8]) -> Result<&str, Reply> {
    std::str::from_utf8(argument).map_err(|_| malformed())
}

/// Without control characters: a name of a file that has them would be a line of its own in answers
/// and logs.
fn path(argument: &[u8]) -> Result<PathBuf, Reply> {
    if argument.is_empty() || argument.iter().any(u8::is_ascii_control) {
        return Err(malformed());
    }
    Ok(PathBuf::from(OsString::from_vec(argument.to_owned())))
}

fn path_or_here(argument: &[u8]) -> Result<PathBuf, Reply> {
    if argument.is_empty() { Ok(".".into()) } else { path(argument) }
}

/// Clients give the options of `ls`, mostly `-la`.
fn without_options(mut argument: &[u8]) -> &[u8] {
    while argument.first() == Some(&b'-') {
        let end = argument.iter().position(|byte| *byte == b' ');
        let option = &argument[..end.unwrap_or(argument.len())];
        argument = end.map_or(&[], |end| &argument[end + 1..]);
        if option == b"--" {
            break;
        }
    }
    argument
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn parsed(line: &str) -> Command {
        Command::parse(line.as_bytes()).unwrap_or_else(|_| panic!("{line:?} is a command"))
    }

    fn code(line: &[u8]) -> u16 {
        match Command::parse(line) {
            Ok(Command::Known(reply)) | Err(reply) => reply.code(),
            Ok(_) => 0,
        }
    }

    #[test]
    fn commands_are_what_the_standards_say() {
        assert!(parsed("retr  a b \r\n") == Command::Retrieve(" a b ".into()));
        assert!(parsed("STOR x\n") == Command::Store("x".into()));
        assert!(parsed("REST 18446744073709551615\r\n") == Command::Restart(u64::MAX));
        assert!(parsed("LIST -la\r\n") == Command::List(Listing::Long, ".".into()));
        assert!(parsed("LIST -l -a d\r\n") == Command::List(Listing::Long, "d".into()));
        assert!(parsed("LIST -- -d\r\n") == Command::List(Listing::Long, "-d".into()));
        assert!(parsed("NLST\r\n") == Command::List(Listing::Names, ".".into()));
        assert!(parsed("cdup\r\n") == Command::ChangeDirectory("..".into()));
        assert!(parsed("EPSV 2\r\n") == Command::Passive(Some(2)));
        assert!(parsed("epsv all\r\n") == Command::PassiveAlways);
        assert!(parsed("PASS  a b\r\n") == Command::Password(b" a b".to_vec()));
        for abort in [&b"ABOR\r\n"[..], b"\xff\xf4\xff\xf2ABOR\r\n", b"\xff\xf4\xf2abor\r\n"] {
            assert!(Command::parse(abort).is_ok_and(|command| command == Command::Abort));
        }
    }

    #[test]
    fn what_is_wrong_has_the_code_that_says_so() {
        for (line, expected) in [
            (&b"\r\n"[..], 500),
            (b"FROB x\r\n", 500),
            (b"RETR\r\n", 501),
            (b"RETR \r\n", 501),
            (b"RETR a\rb\r\n", 501),
            (b"RETR a\0b\r\n", 501),
            (b"REST -1\r\n", 501),
            (b"REST 18446744073709551616\r\n", 501),
            (b"USER \xff\r\n", 501),
            (b"PORT 10,0,0,1,0,25\r\n", 502),
            (b"EPRT |1|10.0.0.1|25|\r\n", 502),
            (b"AUTH KRB\r\n", 504),
            (b"PROT S\r\n", 536),
            (b"TYPE E\r\n", 504),
            (b"MODE B\r\n", 504),
            (b"EPSV 3\r\n", 522),
            (b"\xff\xff\xff\r\n", 500),
        ] {
            assert_eq!(code(line), expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn lines_are_bounded() {
        let mut lines = Lines::default();
        lines.add(&vec![b'x'; LINE_BYTES_MAX - 1]);
        assert_eq!(lines.take(), Ok(None));
        lines.add(b"\n");
        assert_eq!(lines.take().unwrap().unwrap().len(), LINE_BYTES_MAX);
        lines.add(&vec![b'x'; lines.room()]);
        assert_eq!((lines.take(), lines.room()), (Err(LineTooLong), 0));
        let mut lines = Lines::default();
        lines.add(&vec![b'x'; LINE_BYTES_MAX]);
        lines.add(b"\n");
        assert_eq!(lines.take(), Err(LineTooLong));
    }

    const VERBS: &str =
        "(USER|PASS|RETR|STOR|APPE|LIST|NLST|MLSD|MLST|REST|EPSV|OPTS|TYPE|CWD|[a-zA-Z]{0,5})";

    proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Command::parse(&bytes);
        }

        #[test]
        fn no_path_has_control_characters(
            verb in VERBS,
            argument in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let line = [verb.as_bytes(), b" ", &argument, b"\r\n"].concat();
            let found = match Command::parse(&line) {
                Ok(Command::Retrieve(path) | Command::Store(path) | Command::List(_, path)) => path,
                _ => return Ok(()),
            };
            let bytes = found.as_os_str().as_encoded_bytes();
            prop_assert!(!bytes.is_empty() && !bytes.iter().any(u8::is_ascii_control));
        }

        /// However the network cuts what clients say, it is the same lines in the same order.
        #[test]
        fn lines_are_the_same_in_any_pieces(
            said in proptest::collection::vec("[a-zA-Z /\r]{0,30}\n", 0..20),
            rest in "[a-z]{0,10}",
            cuts in proptest::collection::vec(1..50_usize, 1..50),
        ) {
            let bytes = [said.concat(), rest].concat().into_bytes();
            let (mut lines, mut found, mut left) = (Lines::default(), Vec::new(), bytes.as_slice());
            for cut in cuts.iter().cycle().take(bytes.len()) {
                let (piece, others) = left.split_at((*cut).min(left.len()));
                lines.add(piece);
                left = others;
                while let Some(line) = lines.take().unwrap() {
                    found.push(String::from_utf8(line).unwrap());
                }
            }
            prop_assert_eq!(found, said);
        }
    }
}

//! The exit codes of the commands. Scripts depend on them, so they are named in one place and the
//! manual is made from this table.

/// Why a command ended, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed; the message says on what and what to do.
    Failure = 1,
    /// The arguments or the configuration are wrong. Nothing was tried.
    Usage = 2,
    /// What was named doesn't exist.
    NotFound = 3,
    /// Refused to protect data, or not confirmed: the message says why, and whether anything may override it.
    Refused = 4,
    /// The command worked, and what it shows of ours isn't healthy (`status`, `lab status`, `target
    /// status`, all that lists or shows disks, pools and volumes). Pools of others, released ones, and
    /// disks that are free or in other use are as they are.
    Degraded = 5,
    /// No supervisor answers on the API socket.
    NotRunning = 6,
    /// It exists already.
    Exists = 7,
    /// Not now: the pool is suspended, another operation holds it, or nobody answered in time. Trying
    /// again may help.
    Unavailable = 8,
}

impl Exit {
    /// Every code, for the manual.
    pub const ALL: [Exit; 9] = [
        Exit::Ok,
        Exit::Failure,
        Exit::Usage,
        Exit::NotFound,
        Exit::Refused,
        Exit::Degraded,
        Exit::NotRunning,
        Exit::Exists,
        Exit::Unavailable,
    ];

    /// Of a command that worked and showed whether things are as they should be.
    pub fn of_health(is_well: bool) -> Exit {
        if is_well { Exit::Ok } else { Exit::Degraded }
    }

    /// The number that the process ends with.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// One line for the manual.
    pub fn meaning(self) -> &'static str {
        match self {
            Exit::Ok => "done",
            Exit::Failure => "it failed; the message says on what and what to do",
            Exit::Usage => "wrong arguments or configuration; nothing was tried",
            Exit::NotFound => "what was named does not exist",
            Exit::Refused => {
                "refused to protect data, or not confirmed (--yes); the message says why"
            }
            Exit::Degraded => "the command worked; what it shows or lists of ours is not healthy",
            Exit::NotRunning => "no supervisor answers on the API socket",
            Exit::Exists => "it exists already",
            Exit::Unavailable => {
                "not now: suspended, busy, or no answer in time; trying again may help"
            }
        }
    }
}

/// The table of codes as text, for `--help` and the manual.
pub fn exit_code_table() -> String {
    let mut text = String::from("Exit codes:\n");
    for exit in Exit::ALL {
        text.push_str(&format!("  {}  {}\n", exit.code(), exit.meaning()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_stable_and_the_table_has_all() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        let table = exit_code_table();
        assert!(table.contains("  6  no supervisor answers"));
    }
}

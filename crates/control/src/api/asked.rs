//! What a request of the API is about, in words: for whoever waits for it, and for a pool's history.

use super::former::operation;

/// The header in which the command line says what was typed.
pub const COMMAND_HEADER: &str = "etherpool-command";

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// In words.
    pub text: String,
    /// The pool, by the name or identity that was given.
    pub pool: Option<String>,
    /// Whether it changes something.
    pub changes: bool,
}

impl Asked {
    /// From the API's own words: a new operation is named without anything being added here.
    pub fn of(method: &str, path: &str) -> Asked {
        // The same without the answer's body.
        let method = if method == "HEAD" { "GET" } else { method };
        let parts: Vec<&str> = operation(path).split('/').collect();
        let (object, rest) = match &parts[..] {
            ["pools", pool, "volumes", volume, rest @ ..] => {
                (format!("volume {pool}/{volume}"), rest)
            }
            ["pools", pool, "volumes"] => (format!("pool {pool}"), &["make a volume in"][..]),
            ["pools", pool, "empty"] => (format!("pool {pool}"), &["empty disks of"][..]),
            ["pools", pool, "offline"] => {
                (format!("pool {pool}"), &["take out of use disks of"][..])
            }
            ["pools", pool, "online"] => (format!("pool {pool}"), &["take into use disks of"][..]),
            ["pools", pool, "label"] => (format!("pool {pool}"), &["label disks of"][..]),
            ["pools", pool, "jobs", job] => (format!("job {job} of pool {pool}"), &[][..]),
            ["pools", pool, "boot-copies", server] => {
                (format!("the copy of boot server {server} in pool {pool}"), &[][..])
            }
            ["pools", pool, rest @ ..] => (format!("pool {pool}"), rest),
            ["disks", disk, rest @ ..] => (format!("disk {disk}"), rest),
            ["pools"] if method != "GET" => ("a new pool".to_owned(), &["create"][..]),
            _ => (parts.join(" "), &[][..]),
        };
        let action = match (method, rest) {
            ("GET", []) => "look at".to_owned(),
            ("GET", rest) => format!("look at {} of", rest.join(" ")),
            ("DELETE", []) => "remove".to_owned(),
            ("DELETE", rest) => format!("end {} of", rest.join(" ")),
            (_, rest) => rest.join(" "),
        };
        let text = format!("{action} {object}").trim().to_owned();
        let pool = match &parts[..] {
            ["pools", pool, ..] => Some((*pool).to_owned()),
            _ => None,
        };
        let plans = matches!(
            &parts[..],
            ["plan", ..]
                | ["disks", "wipe", "plan"]
                | ["pools", _, "plan", ..]
                | ["pools", _, "extend", "plan"]
        );
        let only_asks = method == "GET" || plans;
        Asked { text, pool, changes: !only_asks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_named_by_what_it_does() {
        for (method, path, expected) in [
            ("GET", "/v2/status", "look at status"),
            ("GET", "/v2/pools", "look at pools"),
            ("POST", "/v2/pools", "create a new pool"),
            ("POST", "/v2/import-all", "import-all"),
            ("POST", "/v2/pools/p/import", "import pool p"),
            ("POST", "/v2/pools/p/volumes", "make a volume in pool p"),
            ("GET", "/v2/pools/p/volumes/v", "look at volume p/v"),
            ("GET", "/v2/pools/p/volumes/v/stats", "look at stats of volume p/v"),
            ("POST", "/v2/pools/p/volumes/v/mount", "mount volume p/v"),
            ("DELETE", "/v2/pools/p/volumes/v", "remove volume p/v"),
            ("DELETE", "/v2/pools/p/volumes/v/ftp", "end ftp of volume p/v"),
            ("POST", "/v2/pools/p/empty", "empty disks of pool p"),
            ("POST", "/v2/pools/p/label", "label disks of pool p"),
            ("POST", "/v2/pools/p/offline", "take out of use disks of pool p"),
            ("DELETE", "/v2/pools/p/jobs/3", "remove job 3 of pool p"),
            ("DELETE", "/v2/pools/p/boot-copies/7", "remove the copy of boot server 7 in pool p"),
            ("POST", "/v2/disks/e1.0/reset-epoch", "reset-epoch disk e1.0"),
        ] {
            assert_eq!(Asked::of(method, path).text, expected);
        }
    }

    #[test]
    fn what_only_asks_is_known_by_its_place_and_not_by_a_name() {
        for path in ["plan/pool", "disks/wipe/plan", "pools/p/plan/volume", "pools/p/extend/plan"] {
            assert!(!Asked::of("POST", &format!("/v2/{path}")).changes, "{path}");
        }
        for path in
            ["pools/plan/destroy", "pools/p/volumes/plan/mkfs", "pools/plan/volumes/v/mount"]
        {
            assert!(Asked::of("POST", &format!("/v2/{path}")).changes, "{path}");
        }
        assert!(Asked::of("DELETE", "/v2/pools/p/volumes/plan").changes);
        assert!(
            !Asked::of("HEAD", "/v2/pools/p").changes,
            "who only looks leaves no trace in a history"
        );
    }
}

//! Where HTTP is spoken: what a webhook's URL says, and that of an API elsewhere.

use std::fmt;

/// What a URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Whether it is by TLS.
    pub tls: bool,
    /// A name, or an address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// The rest.
    pub path: String,
}

impl Url {
    /// What it says, or why it can't be used.
    pub fn parse(url: &str) -> Result<Url, &'static str> {
        let (tls, rest) = match url.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, url.strip_prefix("http://").ok_or("is not https://HOST[:PORT]/PATH")?),
        };
        if rest.contains(|c: char| c.is_whitespace() || c.is_control() || !c.is_ascii()) {
            return Err("has a character that no URL has");
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        if authority.contains('@') {
            return Err("has a password, which is not sent here: have a command do it");
        }
        let bare = authority.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match authority[bare..].rfind(':') {
            Some(at) => (
                &authority[..bare + at],
                authority[bare + at + 1..].parse().map_err(|_| "has no port")?,
            ),
            None => (authority, if tls { 443 } else { 80 }),
        };
        match host.trim_matches(['[', ']']) {
            "" => Err("names no host"),
            host => Ok(Url { tls, host: host.to_owned(), port, path: path.to_owned() }),
        }
    }

    /// What a request calls the host.
    pub fn authority(&self) -> String {
        let Url { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// Without what only those shall know whom it lets in: a path may be a token.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

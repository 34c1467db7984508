//! Who may what by the API: roles, and the clients that have one by their certificates.

use std::net::SocketAddr;
use std::path::PathBuf;

use block::{serde_as_text, words};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

/// What somebody may have done. Each may what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub enum Role {
    /// Look.
    Read,
    /// The day's work: what neither destroys anything nor gives anybody access.
    Operate,
    /// Everything.
    Administer,
}

words!(Role { Read = "read", Operate = "operate", Administer = "administer" });
serde_as_text!(Role);

/// The API by TLS; on its Unix socket it is served in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct ApiConfig {
    /// Where: `"192.0.2.10:9443"`, or a list of such; nowhere by default.
    #[serde(deserialize_with = "one_or_more")]
    #[schemars(with = "Vec<String>", extend("type" = ["string", "array"]))]
    pub listen: Vec<SocketAddr>,
    /// A file with the supervisor's certificate, and those that lead to a known one, PEM.
    pub certificate: Option<PathBuf>,
    /// A file with the secret key of that, PEM: for its owner only, or a group that may read it.
    pub key: Option<PathBuf>,
    /// A file with the authorities whose certificates clients show, PEM.
    #[serde(alias = "client_ca")]
    pub client_ca: Option<PathBuf>,
    /// The clients. A certificate that names none of them is nobody's, whoever signed it; one that names several may what the
    /// least of them may.
    pub clients: Vec<ApiClient>,
}

/// A client.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiClient {
    /// A name of its certificate, letter by letter: the common name, or a subject alternative name.
    pub name: String,
    /// What it may.
    pub role: Role,
}

/// A list of addresses, or one.
pub(crate) fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Listen {
        One(SocketAddr),
        More(Vec<SocketAddr>),
    }
    Ok(match Listen::deserialize(from) {
        Ok(Listen::One(address)) => vec![address],
        Ok(Listen::More(addresses)) => addresses,
        Err(_) => {
            let why = "listen is ADDRESS:PORT, or a list of such";
            return Err(serde::de::Error::custom(why));
        }
    })
}

impl ApiConfig {
    /// What can't be meant: where it is written, and why.
    pub fn check(&self) -> Result<(), (String, String)> {
        let wrong = |at: &str, why: String| Err((at.to_owned(), why));
        let files = [&self.certificate, &self.key, &self.client_ca];
        if self.listen.is_empty() {
            let is_set = files.iter().any(|file| file.is_some()) || !self.clients.is_empty();
            let why = "the API is served by TLS nowhere: listen names no address".to_owned();
            return if is_set { wrong("[api", why) } else { Ok(()) };
        }
        if files.iter().any(|file| file.is_none()) {
            let why = "the API by TLS takes certificate, key and client-ca: all three files have to be named";
            return wrong("[api]", why.to_owned());
        }
        if self.clients.is_empty() {
            let why = "the API by TLS lets nobody in: no client is named by [[api.clients]]";
            return wrong("[api]", why.to_owned());
        }
        for (index, address) in self.listen.iter().enumerate() {
            if self.listen[..index].contains(address) {
                return wrong(&address.to_string(), format!("{address} is named twice"));
            }
        }
        for (index, ApiClient { name, .. }) in self.clients.iter().enumerate() {
            if name.is_empty() || name.chars().any(char::is_control) {
                return wrong(
                    "[[api.clients]]",
                    "a client has no name that can be shown".to_owned(),
                );
            }
            if self.clients[..index].iter().any(|other| other.name == *name) {
                return wrong(name, format!("client '{name}' is named twice"));
            }
        }
        Ok(())
    }

    /// The client that a certificate with these names is; where it is several, the one that may least.
    pub fn client(&self, names: &[String]) -> Option<&ApiClient> {
        let named = self.clients.iter().filter(|client| names.contains(&client.name));
        named.min_by_key(|client| client.role)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::SupervisorConfig;

    const GOOD: &str = "[api]\nlisten = '192.0.2.1:9443'\ncertificate = '/c'\nkey = '/k'\nclient-ca = '/a'\n\
                        [[api.clients]]\nname = 'ann'\nrole = 'administer'\n\
                        [[api.clients]]\nname = 'grafana.example'\nrole = 'read'\n";

    #[test]
    fn clients_have_the_role_that_is_written() {
        let api = SupervisorConfig::parse(GOOD).unwrap().api;
        assert_eq!(api.listen, ["192.0.2.1:9443".parse().unwrap()]);
        let role = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            api.client(&names).map(|client| client.role)
        };
        assert_eq!(role(&["ann"]), Some(Role::Administer));
        assert_eq!(role(&["x", "grafana.example"]), Some(Role::Read));
        assert_eq!(role(&["ann", "grafana.example"]), Some(Role::Read), "the least");
        assert_eq!(role(&["Ann", "ann.", "an", ""]), None);
        assert_eq!(role(&[]), None);
        let two = GOOD.replace("'192.0.2.1:9443'", "['192.0.2.1:9443', '[::1]:9443']");
        assert_eq!(SupervisorConfig::parse(&two).unwrap().api.listen.len(), 2);
        assert!(Role::Read < Role::Operate && Role::Operate < Role::Administer);
    }

    #[test]
    fn what_would_let_in_nobody_or_anybody_is_refused() {
        for (from, to, line, reason) in [
            ("listen = '192.0.2.1:9443'\n", "", 1, "listen names no address"),
            ("client-ca = '/a'\n", "", 1, "all three files"),
            ("key = '/k'\n", "", 1, "all three files"),
            ("'/a'", "'own-ca'", 5, "must be an absolute path"),
            ("'192.0.2.1:9443'", "'everywhere'", 2, "listen is ADDRESS:PORT"),
            ("'192.0.2.1:9443'", "['[::1]:1', '[::1]:1']", 2, "named twice"),
            ("'read'", "'root'", 11, "not known here"),
            ("role = 'read'\n", "", 9, "missing field `role`"),
            ("'grafana.example'", "'ann'", 7, "named twice"),
            ("'grafana.example'", "''", 6, "no name"),
            ("name = 'ann'", "name = 'ann'\npassword = 'x'", 8, "unknown field"),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let error = SupervisorConfig::parse(&GOOD.replace(from, to)).unwrap_err();
            assert!(error.reason.contains(reason), "{from} -> {to}: {error}");
            assert_eq!(error.line, line, "{from} -> {to}: {error}");
        }
        let nobody = &GOOD[..GOOD.find("[[").unwrap()];
        let error = SupervisorConfig::parse(nobody).unwrap_err();
        assert!(error.reason.contains("lets nobody in"), "{error}");
    }
}

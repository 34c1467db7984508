//! `[alerts]` of supervisor.toml: who is told, and of what not.

use std::collections::BTreeSet;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Kind;
use crate::url::Url;

/// Who is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct AlertsConfig {
    /// Nobody is to be told: no mail, and no warning that there is no way to tell anybody.
    pub nobody: bool,
    /// Kinds that nobody is told of, and that aren't wrong for `etherpool status`.
    pub ignore: BTreeSet<Kind>,
    /// The local mailer. Where its program is there it is used.
    pub mail: MailConfig,
    /// URLs that messages are posted to, as JSON.
    pub webhook: Vec<WebhookConfig>,
    /// Programs that are given messages, as JSON on standard input.
    pub command: Vec<CommandConfig>,
}

/// The local mailer. Where the program is there it is used, unless it is switched off.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct MailConfig {
    /// Whether mail is sent.
    pub enabled: bool,
    /// To whom.
    pub to: Vec<String>,
    /// The program, which gets messages on its standard input.
    pub sendmail: PathBuf,
}

impl Default for MailConfig {
    fn default() -> MailConfig {
        MailConfig {
            enabled: true,
            to: vec!["root".to_owned()],
            sendmail: "/usr/sbin/sendmail".into(),
        }
    }
}

/// A URL.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// `https://HOST[:PORT]/PATH`, or `http`.
    pub url: String,
    /// A file of certificates (PEM), which are trusted instead of those that the system trusts.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

impl WebhookConfig {
    /// Whom it is for, without what only that one shall know: a path is often all that lets somebody in.
    pub fn name(&self) -> String {
        let end = self.url.find("://").map_or(0, |at| at + 3);
        let path = self.url[end..].find('/').map_or(self.url.len(), |at| end + at);
        format!("webhook {}", &self.url[..path])
    }
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// The program's absolute path and its arguments. No shell reads them.
    pub argv: Vec<String>,
}

impl AlertsConfig {
    /// What can't be meant: where it is written, and why.
    pub fn check(&self) -> Result<(), (String, String)> {
        let sendmail = self.mail.sendmail.display().to_string();
        if !self.mail.sendmail.is_absolute() {
            return Err((sendmail.clone(), format!("'{sendmail}' must be an absolute path")));
        }
        for to in &self.mail.to {
            let is_odd = |c: char| c.is_control() || c.is_whitespace() || c == ',';
            if to.is_empty() || to.starts_with('-') || to.contains(is_odd) {
                return Err((to.clone(), format!("'{to}' is not the address of one person")));
            }
        }
        for WebhookConfig { url, ca } in &self.webhook {
            if let Err(why) = Url::parse(url) {
                return Err((url.clone(), format!("'{url}' {why}")));
            }
            if let Some(ca) = ca.as_ref().filter(|ca| !ca.is_absolute()) {
                let ca = ca.display().to_string();
                return Err((ca.clone(), format!("'{ca}' must be an absolute path")));
            }
        }
        for CommandConfig { argv } in &self.command {
            match argv.first() {
                Some(program) if program.starts_with('/') => {}
                Some(program) => {
                    return Err((program.clone(), format!("'{program}' must be an absolute path")));
                }
                None => return Err(("argv".to_owned(), "argv names no program".to_owned())),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::SupervisorConfig;

    #[test]
    fn all_channels_are_read() {
        let config = SupervisorConfig::parse(
            r#"
            [alerts]
            ignore = ["pool-space", "log-space"]
            [alerts.mail]
            to = ["root", "ops@example.com"]
            [[alerts.webhook]]
            url = "http://[::1]:8080/x?y"
            [[alerts.webhook]]
            url = "https://h/token"
            ca = "/etc/ssl/own.pem"
            [[alerts.command]]
            argv = ["/usr/bin/logger", "-t", "etherpool"]
            "#,
        )
        .unwrap();
        let alerts = config.alerts;
        assert!(alerts.mail.enabled && !alerts.nobody);
        assert_eq!(alerts.mail.to.len(), 2);
        assert!(alerts.ignore.contains(&Kind::PoolSpace));
        let url = |tls, host: &str, port, path: &str| {
            let (host, path) = (host.to_owned(), path.to_owned());
            Ok(Url { tls, host, port, path })
        };
        assert_eq!(Url::parse(&alerts.webhook[0].url), url(false, "::1", 8080, "/x?y"));
        assert_eq!(Url::parse("http://h"), url(false, "h", 80, "/"));
        let secret = &alerts.webhook[1];
        assert_eq!(Url::parse(&secret.url), url(true, "h", 443, "/token"));
        assert_eq!(secret.ca.as_deref(), Some(std::path::Path::new("/etc/ssl/own.pem")));
        assert_eq!(secret.name(), "webhook https://h", "nobody else is to know the token");
        assert_eq!(alerts.command[0].argv.len(), 3);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_where_it_stands() {
        for (text, line, reason) in [
            ("[alerts]\nnobdy = true\n", 2, "unknown field"),
            ("[alerts]\nignore = [\"pool-sapce\"]\n", 2, "is not known here: use engine-down or"),
            ("[alerts.mail]\nto = [\"-x\"]\n", 2, "not the address"),
            ("[alerts.mail]\nto = [\"a b\"]\n", 2, "not the address"),
            ("[alerts.mail]\nsendmail = \"sendmail\"\n", 2, "absolute path"),
            ("[[alerts.webhook]]\nurl = \"https://h/\"\nca = \"own.pem\"\n", 3, "absolute path"),
            ("[[alerts.webhook]]\nurl = \"ftp://h/\"\n", 2, "is not https://"),
            ("[[alerts.webhook]]\nurl = \"http://:80/\"\n", 2, "names no host"),
            ("[[alerts.webhook]]\nurl = \"http://h:x/\"\n", 2, "no port"),
            ("[[alerts.webhook]]\nurl = \"http://u:p@h/\"\n", 2, "password"),
            ("[[alerts.command]]\nargv = [\"logger\"]\n", 2, "absolute path"),
            ("[[alerts.command]]\nargv = []\n", 2, "no program"),
        ] {
            let error = SupervisorConfig::parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
            assert!(error.reason.contains(reason), "{text}: {error}");
        }
    }
}

//! `--check`: what a configuration means on this machine as it is now. Nothing is started, and nothing is written.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use control::alerts::AlertsConfig;
use control::api::ApiError;
use control::config::{InterfaceConfig, SupervisorConfig};
use os::net::netlink::links;

use crate::node::describe_link;

/// What is said of a configuration.
#[derive(Debug, Default)]
struct Said {
    lines: Vec<String>,
    warnings: Vec<String>,
}

/// Says what a configuration would do; an error where the supervisor, or its boot server, wouldn't begin by it.
pub fn check(config: &SupervisorConfig) -> anyhow::Result<ExitCode> {
    crate::services::check_tls(config)?;
    if let Some(file) = &config.ftp.users_file {
        frontend::ftp::list_users(file)
            .map_err(|error| ApiError::from(crate::cli::wrong_users(error)))?;
    }
    if let Some(file) = &config.boot {
        crate::boot::read_config(file)?;
    }
    let mut said = Said::default();
    said.lines.push("The configuration can be used.".to_owned());
    interfaces(&mut said, &config.interfaces)?;
    files(&mut said, config);
    doors(&mut said, config);
    told(&mut said, &config.alerts);
    // Whoever closed standard output doesn't want it.
    let _ = writeln!(std::io::stdout(), "{}", said.lines.join("\n"));
    for warning in said.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(ExitCode::SUCCESS)
}

fn interfaces(said: &mut Said, wanted: &[InterfaceConfig]) -> anyhow::Result<()> {
    said.lines.push("Interfaces:".to_owned());
    for InterfaceConfig { name, netns } in wanted {
        let place = netns.as_ref().map_or_else(String::new, |netns| format!(" in {netns}"));
        let found = match (links(netns.as_deref()), netns) {
            (Ok(links), _) => links.into_iter().find(|link| link.name == *name),
            // A namespace may be made later, as an interface may.
            (Err(_), Some(_)) => None,
            (Err(error), None) => {
                return Err(error).context("cannot list this machine's interfaces");
            }
        };
        match found {
            Some(link) => said.lines.push(format!("{}{place}", describe_link(&link))),
            None => said.lines.push(format!("  {name}  no such interface now{place}; waited for")),
        }
    }
    if wanted.is_empty() {
        said.warnings
            .push("no interface is configured: no disk of another machine is present".to_owned());
    }
    Ok(())
}

fn files(said: &mut Said, config: &SupervisorConfig) {
    let of = |what: &str, path: &Path| format!("{what}{}", path.display());
    said.lines.push(of("State:       ", &config.state_dir));
    said.lines.push(of("Sockets:     ", &config.run_dir));
    said.lines.push(of("Devices:     ", &config.device_dir));
    let roots: Vec<String> =
        config.mount.roots.iter().map(|root| root.display().to_string()).collect();
    said.lines.push(format!("Mounts:      below {}", one_of_or_none(&roots)));
    for root in config.mount.roots.iter().filter(|root| !root.is_dir()) {
        said.warnings.push(format!("{} isn't there: nothing is mounted below it", root.display()));
    }
}

fn doors(said: &mut Said, config: &SupervisorConfig) {
    said.lines.push(format!("Sessions:    {}", config.security));
    said.lines.push(format!("API:         {}", config.api_socket().display()));
    for address in &config.api.listen {
        let clients = config.api.clients.len();
        said.lines.push(format!("             {address} by TLS, {clients} clients"));
    }
    let ftp = &config.ftp;
    let anonymous = if ftp.anonymous { ", anybody may read what all may" } else { "" };
    let tls = if ftp.certificate.is_some() { " by TLS" } else { "" };
    said.lines.push(format!("FTP:         {}{tls}{anonymous}", ftp.listen));
    if ftp.users_file.is_none() {
        said.warnings.push("no ftp users-file is configured: nobody can write by FTP".to_owned());
    }
    if let Some(address) = config.metrics {
        said.lines.push(format!("Metrics:     {address}, without a password"));
    }
    for address in &config.page.listen {
        said.lines.push(format!("Page:        http://{address}/, for all users of this machine"));
    }
    if let Some(boot) = &config.boot {
        said.lines.push(format!("Boot server: by {}", boot.display()));
    }
}

fn told(said: &mut Said, alerts: &AlertsConfig) {
    let mut channels = vec!["the journal".to_owned()];
    if !alerts.nobody && alerts.mail.enabled && alerts.mail.sendmail.is_file() {
        channels.push(format!("mail to {}", alerts.mail.to.join(", ")));
    }
    channels.extend(alerts.webhook.iter().map(|webhook| webhook.name()));
    for command in &alerts.command {
        let program = command.argv.first().map_or("", String::as_str);
        channels.push(format!("command {program}"));
        if !Path::new(program).is_file() {
            said.warnings.push(format!("{program} isn't there: nobody is told by that command"));
        }
    }
    if channels.len() == 1 && !alerts.nobody {
        said.warnings.push(
            "nobody is told what goes wrong, but who reads the journal: there is no mailer, webhook or command"
                .to_owned(),
        );
    }
    said.lines.push(format!("Told:        {}", channels.join(", ")));
}

fn one_of_or_none(names: &[String]) -> String {
    match names {
        [] => "nowhere".to_owned(),
        names => names.join(", "),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn said(text: &str) -> Said {
        let config = SupervisorConfig::parse(text).unwrap();
        let mut said = Said::default();
        interfaces(&mut said, &config.interfaces).unwrap();
        files(&mut said, &config);
        doors(&mut said, &config);
        told(&mut said, &config.alerts);
        said
    }

    #[test]
    fn it_says_what_would_be_done_and_what_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display();
        let text = format!(
            "metrics = \"127.0.0.1:9101\"\n[[interfaces]]\nname = \"lo\"\n[[interfaces]]\nname = \"not-there\"\n\
             [mount]\nroots = [\"{root}\", \"/no/such/root\"]\n[ftp]\nanonymous = false\n\
             [page]\nlisten = \"127.0.0.1:8480\"\n\
             [alerts.mail]\nenabled = false\n[[alerts.command]]\nargv = [\"/no/such/program\"]\n"
        );
        let Said { lines, warnings } = said(&text);
        let lines = lines.join("\n");
        for line in [
            "  lo  ",
            "  not-there  no such interface now; waited for",
            &format!("Mounts:      below {root}, /no/such/root"),
            "Sessions:    encrypt",
            "FTP:         127.0.0.1:2121\n",
            "Metrics:     127.0.0.1:9101, without a password",
            "Page:        http://127.0.0.1:8480/, for all users of this machine",
            "Told:        the journal, command /no/such/program",
        ] {
            assert!(lines.contains(line), "{line} isn't in {lines}");
        }
        let expected =
            ["/no/such/root isn't there", "no ftp users-file", "/no/such/program isn't there"];
        assert_eq!(warnings.len(), expected.len(), "{warnings:?}");
        for (warning, expected) in warnings.iter().zip(expected) {
            assert!(warning.starts_with(expected), "{warning}");
        }
        let Said { warnings, .. } = said("[alerts.mail]\nenabled = false");
        assert!(warnings.iter().any(|warning| warning.starts_with("no interface")), "{warnings:?}");
        assert!(
            warnings.iter().any(|warning| warning.starts_with("nobody is told")),
            "{warnings:?}"
        );
    }
}

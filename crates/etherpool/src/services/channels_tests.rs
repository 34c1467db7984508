#![allow(clippy::unwrap_used)]

use control::alerts::{CommandConfig, MailConfig};

use super::*;

/// A script. Another process writes it: a descriptor of ours that may be written by would be inherited by whatever other
/// tests start at that moment, and who has it open keeps it from being run (ETXTBSY).
fn program(directory: &std::path::Path, name: &str, script: &str) -> String {
    let file = directory.join(name).display().to_string();
    let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$2" && chmod 700 "$2""#;
    let written =
        std::process::Command::new("sh").args(["-c", write, "sh", script, &file]).status();
    assert!(written.unwrap().success());
    file
}

fn commands(argv: &[&[&str]]) -> AlertsConfig {
    let command = argv
        .iter()
        .map(|argv| CommandConfig { argv: argv.iter().map(|word| (*word).to_owned()).collect() });
    AlertsConfig { nobody: true, command: command.collect(), ..AlertsConfig::default() }
}

/// Reports once `are` so.
async fn reports(
    channels: &Channels,
    are: impl Fn(&[ChannelReport]) -> bool,
) -> Vec<ChannelReport> {
    loop {
        let reports = channels.reports();
        if are(&reports) {
            return reports;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_command_gets_json_and_a_mailer_a_mail() {
    let directory = tempfile::tempdir().unwrap();
    let out = |name: &str| directory.path().join(name).display().to_string();
    let take = program(directory.path(), "take", "cat > \"$1\"");
    let sendmail = program(
        directory.path(),
        "sendmail",
        &format!("echo \"$@\" > {}; cat > {}", out("to"), out("mail")),
    );
    let mail = MailConfig { sendmail: sendmail.into(), ..MailConfig::default() };
    let config = AlertsConfig { nobody: false, mail, ..commands(&[&[&take, &out("a; b")]]) };
    let channels = Channels::start(&config, "host");
    let answers = channels.test(&Message::test(1_000_000)).await;
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()), "{answers:?}");
    let names: Vec<&str> = answers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["journal", "mail to root", &format!("command {take}")]);
    let read = |name: &str| std::fs::read_to_string(out(name)).unwrap();
    let batch: Batch = serde_json::from_str(&read("a; b")).unwrap();
    assert_eq!((batch.host.as_str(), batch.messages[0].step), ("host", Step::Test));
    assert_eq!(read("to"), "-i -- root\n");
    let mail = read("mail");
    assert!(mail.starts_with("To: root\nSubject: etherpool on host: this is a test"), "{mail}");
    assert!(mail.contains("\n\nthis is a test"), "{mail}");
}

#[tokio::test]
async fn what_goes_wrong_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let fails = program(directory.path(), "fails", "echo 'no way' >&2; exit 3");
    let channels = Channels::start(&commands(&[&[&fails], &["/nowhere"], &["/bin/true"]]), "host");
    let answers = channels.test(&Message::test(0)).await;
    let said: Vec<String> =
        answers.into_iter().skip(1).map(|(_, answer)| answer.unwrap_or_else(|why| why)).collect();
    assert!(said[0].contains("3") && said[0].contains("no way"), "{said:?}");
    assert!(said[1].contains("can't be started"), "{said:?}");
    assert_eq!(said[2], "done");
}

#[tokio::test]
async fn a_channel_that_fails_is_tried_again_and_holds_up_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let once = format!("test -e {0} || {{ touch {0}; exit 1; }}; cat > {0}", out.display());
    let flaky = program(directory.path(), "flaky", &once);
    let pace = Pace {
        gather: Duration::from_millis(100),
        retry_min: Duration::from_millis(20),
        retry_max: Duration::from_millis(50),
        give_up: Duration::from_secs(3),
    };
    let config = commands(&[&[&flaky], &["/nowhere"], &["/bin/true"]]);
    let channels = Channels::start_at(&config, "host", pace);
    for n in 0..3 {
        channels.tell(&Message::test(n));
    }
    let seen = reports(&channels, |reports| reports[1].delivered == 3).await;
    assert_eq!((seen[1].failures, seen[1].waiting, seen[1].trouble.as_deref()), (1, 0, None));
    let batch: Batch = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!(batch.messages.len(), 3, "they go together");
    assert_eq!(seen[0].delivered, 3, "the journal");
    let seen = reports(&channels, |reports| reports[3].delivered == 3).await;
    assert!(seen[2].waiting >= 1);
    assert!(seen[2].trouble.as_ref().unwrap().contains("can't be started"));
    // More than fits is counted, and nobody waits.
    for n in 0..1000 {
        channels.tell(&Message::test(n));
    }
    let seen = channels.reports();
    assert!(seen[2].lost >= 1000 - WAITING_MAX as u64 && seen[2].waiting <= WAITING_MAX as u64 + 3);
    // At last what couldn't be delivered is given up.
    let seen = reports(&channels, |reports| reports[2].lost > seen[2].lost).await;
    assert!(seen[2].failures > 3, "{seen:?}");
}

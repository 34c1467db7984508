//! What is wrong, and the ways to people.

use std::time::Duration;

use block::spoken;
use control::alerts::{AlertsReport, ChannelAnswer};

use super::{lines, section, table};

/// `alert list`; `now_secs` since 1970.
pub fn alerts(report: &AlertsReport, now_secs: u64) -> String {
    let mut text = match report.raised.is_empty() {
        true => "nothing is wrong\n".to_owned(),
        false => String::new(),
    };
    for alert in &report.raised {
        let condition = &alert.condition;
        let since = Duration::from_secs(now_secs.saturating_sub(alert.since_secs));
        let severity = condition.severity.word();
        text.push_str(&format!("{severity}: {}\n", condition.text));
        let (kind, since) = (condition.kind.name(), spoken(since));
        text.push_str(&format!("    {kind}, for {since}; {}\n", condition.remedy));
    }
    if report.more {
        text.push_str("there is more than is listed\n");
    }
    let mut channels = table(&["TOLD BY", "DELIVERED", "WAITING", "LOST", "REMARK"]);
    for channel in &report.channels {
        channels.add_row([
            channel.name.clone(),
            channel.delivered.to_string(),
            channel.waiting.to_string(),
            channel.lost.to_string(),
            channel.trouble.clone().unwrap_or_default(),
        ]);
    }
    section(&mut text, &channels, !report.channels.is_empty());
    text
}

/// `alert test`.
pub fn alert_test(answers: &[ChannelAnswer]) -> String {
    let mut shown = table(&["TOLD BY", "RESULT", "ANSWER"]);
    for ChannelAnswer { channel, delivered, answer } in answers {
        let result = if *delivered { "delivered" } else { "FAILED" };
        shown.add_row([channel.as_str(), result, answer.as_str()]);
    }
    lines(&shown)
}

#[cfg(test)]
mod tests {
    use control::alerts::{Alert, AlertState, ChannelReport, Condition, Kind};
    use pool::Severity;

    use super::*;

    #[test]
    fn what_is_wrong_stands_above_who_is_told() {
        let condition = Condition {
            kind: Kind::DiskGone,
            pool: Some("tank".into()),
            subject: "e1.0".into(),
            severity: Severity::Warning,
            text: "pool tank: disk e1.0 is gone".into(),
            remedy: "replace it".into(),
        };
        let alert = Alert {
            condition,
            state: AlertState::Raised,
            since_secs: 1000,
            seen_secs: 8200,
            told_secs: 1030,
            told_severity: Severity::Warning,
            clear_secs: 60,
        };
        let channel =
            ChannelReport { name: "mail to root".into(), delivered: 3, ..Default::default() };
        let report = AlertsReport { raised: vec![alert], more: false, channels: vec![channel] };
        let expected = "\
warning: pool tank: disk e1.0 is gone
    disk-gone, for 2 hours; replace it

TOLD BY       DELIVERED  WAITING  LOST  REMARK
mail to root  3          0        0
";
        assert_eq!(alerts(&report, 8200), expected);
        assert!(alerts(&AlertsReport::default(), 0).starts_with("nothing is wrong"));
    }
}

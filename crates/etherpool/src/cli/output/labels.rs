//! Labels of disks, and what they join.

use pool::{LabelForecast, Labels, PoolReport, SharedVolume, VolumeReport};

use super::{lines, table};

/// A disk's labels: `batch=7 rack=A`.
pub fn labels_of(labels: &Labels) -> String {
    match labels.is_empty() {
        true => "-".to_owned(),
        false => {
            let words: Vec<String> =
                labels.iter().map(|(kind, value)| format!("{kind}={value}")).collect();
            words.join(" ")
        }
    }
}

/// What other labels would mean, for the question.
pub fn labels(pool: &str, plan: &LabelForecast) -> String {
    if plan.disks.is_empty() {
        return format!("pool {pool}: its disks have these labels already\n");
    }
    let mut disks = table(&["DISK", "LABELS", "THEN"]);
    for disk in &plan.disks {
        disks.add_row([disk.disk.clone(), labels_of(&disk.labels), labels_of(&disk.labels_then)]);
    }
    format!(
        "Disks of pool {pool} would get other labels:\n{}{}",
        lines(&disks),
        effects(pool, plan)
    )
}

/// What they mean, where they were set.
pub fn labelled(pool: &str, plan: &LabelForecast) -> String {
    let count = plan.disks.len();
    let disks = if count == 1 { "disk has" } else { "disks have" };
    match count {
        0 => labels(pool, plan),
        _ => format!("pool {pool}: {count} {disks} other labels now\n{}", effects(pool, plan)),
    }
}

fn effects(pool: &str, plan: &LabelForecast) -> String {
    let LabelForecast { joined, domains, domains_then, shared, .. } = plan;
    let mut text = joins(joined);
    if domains != domains_then {
        text.push_str(&format!("{domains_then} failure domains, where there were {domains}.\n"));
    }
    for SharedVolume { volume, groups, of, survives_then } in shared {
        let survives = super::layouts::losses(*survives_then);
        text.push_str(&format!(
            "** {groups} of {of} groups of volume {volume} have two copies in one failure domain then: it survives \
             {survives} **\n"
        ));
    }
    if !shared.is_empty() {
        text.push_str(&format!("   `etherpool pool rebalance {pool}` moves them apart\n"));
    }
    text
}

/// What labels join, a line each.
pub fn joins(joined: &[String]) -> String {
    joined.iter().map(|words| format!("  {words}: lost together\n")).collect()
}

/// Lines about what copies of volumes survive, where labels count: `copies of v survive the loss of 1 disk, 1 machine or
/// 1 rack`. Votes and copies of the metadata may survive less.
pub fn survival(report: &PoolReport) -> String {
    let labelled = report.volumes.iter().filter(|volume| !volume.survives_labels.is_empty());
    let mut text: String = labelled
        .map(|volume| {
            format!("copies of {} survive the loss of {}\n", volume.name, survives(volume))
        })
        .collect();
    if !text.is_empty() {
        text.push_str(&match super::pools::survives(report).as_str() {
            "-" => "what the pool itself survives isn't known while it is not in use\n".to_owned(),
            failures => {
                format!("the pool as a whole, with its votes and metadata, survives {failures}\n")
            }
        });
    }
    for volume in report.volumes.iter().filter(|volume| volume.shared_groups > 0) {
        text.push_str(&format!(
            "** {} groups of {} have two copies in one failure domain: `etherpool pool rebalance {}` moves them \
             apart **\n",
            volume.shared_groups, volume.name, report.name
        ));
    }
    text
}

/// How many disks, machines and whatever else labels tell a volume's copies may lose, each by itself.
pub fn survives(volume: &VolumeReport) -> String {
    let count = |number: u32, what: &str| match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    };
    let disks = [count(volume.survives_disks, "disk"), count(volume.survives_nodes, "machine")];
    let labels = volume.survives_labels.iter();
    // What people call something has a plural of its own.
    let labels = labels.map(|(kind, number)| format!("{number} {kind}"));
    let all: Vec<String> = disks.into_iter().chain(labels).collect();
    match all.split_last() {
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::samples;
    use super::*;
    use pool::RelabelledDisk;

    fn words(text: &str) -> Labels {
        let labels = text.split_whitespace().filter_map(|word| word.split_once('='));
        labels.map(|(kind, value)| (kind.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_question_says_what_labels_join() {
        let plan = LabelForecast {
            disks: vec![RelabelledDisk {
                disk: "e1.0".into(),
                labels: words("rack=B"),
                labels_then: words("batch=7 rack=A"),
            }],
            joined: vec!["rack=A joins e1.0, e2.0".into()],
            domains: 3,
            domains_then: 2,
            shared: vec![SharedVolume { volume: "v".into(), groups: 4, of: 9, survives_then: 0 }],
        };
        let expected = "\
Disks of pool cluster would get other labels:
DISK  LABELS  THEN
e1.0  rack=B  batch=7 rack=A
  rack=A joins e1.0, e2.0: lost together
2 failure domains, where there were 3.
** 4 of 9 groups of volume v have two copies in one failure domain then: it survives no loss of a failure domain **
   `etherpool pool rebalance cluster` moves them apart
";
        let text = labels("cluster", &plan);
        assert_eq!(text, expected, "\n{text}");
        let text = labelled("cluster", &plan);
        assert!(text.starts_with("pool cluster: 1 disk has other labels now\n"), "{text}");
        let text = labelled("cluster", &LabelForecast::default());
        assert_eq!(text, "pool cluster: its disks have these labels already\n");
    }

    #[test]
    fn what_a_volume_survives_names_each_kind() {
        let mut report = samples::pool();
        assert_eq!(survival(&report), "");
        let volume = &mut report.volumes[0];
        volume.survives_labels =
            [("rack".parse().unwrap(), 1), ("batch".parse().unwrap(), 0)].into();
        assert_eq!(
            survival(&report),
            "copies of v survive the loss of 1 disk, 1 machine, 0 batch or 1 rack\n\
             the pool as a whole, with its votes and metadata, survives 1 failure\n"
        );
        report.survives = 0;
        assert!(survival(&report).contains("its votes and metadata, survives no failure\n"));
        report.volumes[0].shared_groups = 7;
        assert!(survival(&report).contains("** 7 groups of v have two copies"));
    }
}

//! What is said before groups move or get another number of copies because somebody wants that.

use block::size::Human;
use pool::{ConvertForecast, RebalanceForecast};

use super::{lines, table};

/// What rebalancing does, or would do.
pub fn rebalance(pool: &str, plan: &RebalanceForecast, is_dry_run: bool) -> String {
    let (shared, left) = (plan.shared_groups, plan.shared_groups_then);
    let held = plan.shared_groups_held.min(left);
    let mut apart = match (shared, left) {
        (0, _) => String::new(),
        (shared, 0) => {
            format!("{shared} groups have two copies in one failure domain, and none then.\n")
        }
        (shared, _) => format!("{shared} groups have two copies in one failure domain.\n"),
    };
    if held > 0 {
        apart.push_str(&format!(
            "{held} of them can't be moved now: they aren't whole, their disks aren't there, or they are moving or \
             being converted\n"
        ));
    }
    if left > held {
        apart.push_str(&format!(
            "For {} of them there is no place apart: add disks (pool extend)\n",
            left - held
        ));
    }
    if plan.bytes == 0 {
        return format!(
            "pool {pool}: nothing is to be moved: no more space can be made usable by that, and its disks are \
             about as full as each other\n{apart}"
        );
    }
    let bytes = Human(plan.bytes);
    let mut disks = table(&["DISK", "FULL", "THEN"]);
    for disk in &plan.disks {
        let percent = |percent: u64| format!("{percent}%");
        disks.add_row([disk.disk.clone(), percent(disk.percent), percent(disk.percent_then)]);
    }
    let mut rooms = table(&["NEW VOLUMES OF", "COULD HAVE", "THEN"]);
    for (now, then) in plan.volumes.iter().zip(&plan.volumes_then) {
        let bytes = |bytes: u64| Human(bytes).to_string();
        rooms.add_row([now.layout.clone(), bytes(now.bytes), bytes(then.bytes)]);
    }
    let begins = match (is_dry_run, plan.job) {
        (true, Some(_)) => format!("{bytes} are still to be moved; a job does that already."),
        (true, None) => format!("{bytes} would be moved."),
        (false, _) => format!("{bytes} are moved; see `etherpool pool jobs {pool}`"),
    };
    let dry = if is_dry_run { "Nothing was done (--dry-run).\n" } else { "" };
    format!("pool {pool}: {begins}\n{apart}\n{}\n{}{dry}", lines(&disks), lines(&rooms))
}

/// So many failures.
pub(super) fn losses(failures: u32) -> String {
    match failures {
        0 => "no loss of a failure domain".to_owned(),
        1 => "the loss of one failure domain".to_owned(),
        more => format!("the loss of {more} failure domains"),
    }
}

/// What converting a volume would do, for the question.
pub fn conversion(volume: &str, plan: &ConvertForecast) -> String {
    let ConvertForecast { from, to, .. } = plan;
    let what = match (plan.taken_bytes, plan.freed_bytes) {
        (0, 0) => String::new(),
        (0, freed) => format!(
            "Copies would be given up, once the others were read and are right: {} become free.\n",
            Human(freed)
        ),
        (taken, _) => format!(
            "{} would be copied; the further copies take {} of space.\n",
            Human(plan.copied_bytes),
            Human(taken)
        ),
    };
    let then = match plan.survives_then < plan.survives {
        true => format!(
            "** It would survive {} then, where it survives {} now **\n",
            losses(plan.survives_then),
            losses(plan.survives)
        ),
        false => {
            format!("Once all of it is copied it survives {}.\n", losses(plan.survives_then))
        }
    };
    format!("Volume {volume} would become {to} from {from}, while it is used.\n{what}{then}")
}

/// A layout, and what it is to be.
pub fn layout(layout: &str, to: Option<&str>) -> String {
    to.map_or_else(|| layout.to_owned(), |to| format!("{layout}, to be {to}"))
}

#[cfg(test)]
mod tests {
    use pool::{DiskFill, LayoutRoom};

    use super::*;

    #[test]
    fn the_forecast_of_a_rebalance_as_people_see_it() {
        let room = |bytes| vec![LayoutRoom { layout: "mirror:2".into(), bytes }];
        let fill = |disk: &str, percent, percent_then| DiskFill {
            disk: disk.into(),
            percent,
            percent_then,
        };
        let plan = RebalanceForecast {
            bytes: 512 << 20,
            shared_groups: 7,
            shared_groups_then: 0,
            shared_groups_held: 0,
            disks: vec![fill("e1.0", 99, 66), fill("e3.0", 0, 65)],
            volumes: room(0),
            volumes_then: room(1 << 30),
            job: None,
        };
        let text = rebalance("cluster", &plan, true);
        let expected = "\
pool cluster: 512 MiB would be moved.
7 groups have two copies in one failure domain, and none then.

DISK  FULL  THEN
e1.0  99%   66%
e3.0  0%    65%

NEW VOLUMES OF  COULD HAVE  THEN
mirror:2        0 B         1.00 GiB
Nothing was done (--dry-run).
";
        assert_eq!(text, expected, "\n{text}");
        let nothing = RebalanceForecast::default();
        assert!(rebalance("cluster", &nothing, false).contains("nothing is to be moved"));
    }

    #[test]
    fn the_question_says_what_a_layout_survives() {
        let plan = ConvertForecast {
            from: "mirror:3".into(),
            to: "mirror:2".into(),
            freed_bytes: 1 << 30,
            survives: 2,
            survives_then: 1,
            ..ConvertForecast::default()
        };
        let expected = "\
Volume p/v would become mirror:2 from mirror:3, while it is used.
Copies would be given up, once the others were read and are right: 1.00 GiB become free.
** It would survive the loss of one failure domain then, where it survives the loss of 2 failure domains now **
";
        let text = conversion("p/v", &plan);
        assert_eq!(text, expected, "\n{text}");
        let more = ConvertForecast {
            from: "raid0".into(),
            to: "mirror:2".into(),
            copied_bytes: 1 << 20,
            taken_bytes: 1 << 30,
            survives_then: 1,
            ..ConvertForecast::default()
        };
        let text = conversion("p/v", &more);
        assert!(text.contains("1.00 MiB would be copied"), "\n{text}");
        assert!(text.contains("Once all of it is copied"), "\n{text}");
    }
}

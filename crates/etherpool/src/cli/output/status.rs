//! The page for three in the morning: what is wrong, since when, what it means for data, what to do; then the
//! supervisor at a glance.

use std::time::Duration;

use block::spoken;
use control::alerts::Wrong;
use control::api::{FuseOverIoUring, ServiceState, Status};

use super::{calendar_time, facts, fit, lines, or_dash, table};

/// What an administrator can do where the kernel has FUSE over io_uring.
const FUSE_OFF: &str = "by threads; over io_uring from the next attaching on: \
                        echo Y > /sys/module/fuse/parameters/enable_uring";

/// `status -x` where something is wrong, and how `status` begins.
pub fn wrong(status: &Status) -> String {
    let Some(wrong) = &status.wrong else {
        return format!(
            "supervisor {} (version {}) is older than this program and doesn't say what is wrong: see `etherpool alert \
             list`\n{}",
            status.host,
            status.version,
            status
                .troubles
                .iter()
                .map(|trouble| format!("trouble: {trouble}\n"))
                .collect::<String>()
        );
    };
    let mut text = match wrong.len() {
        0 => "all is well\n".to_owned(),
        1 => "one thing is wrong\n".to_owned(),
        many => format!("{many} things are wrong\n"),
    };
    for one in wrong {
        let Wrong { severity, text: what, data, remedy, .. } = one;
        let lasted = Duration::from_secs(status.at_secs.saturating_sub(one.since_secs));
        let passes = if one.may_pass { "; it may pass by itself" } else { "" };
        let since =
            format!("{} UTC, for {}{passes}", calendar_time(one.since_secs), spoken(lasted));
        text.push_str(&format!("\n{}: {what}\n", severity.word()));
        text.push_str(&format!("  since  {since}\n  data   {data}\n  do     {remedy}\n"));
    }
    text
}

/// `status`, its tables not wider than the terminal where there is one.
pub fn status(status: &Status, width: Option<u16>) -> String {
    let mut text = wrong(status);
    text.push('\n');
    text.push_str(&at_a_glance(status, width));
    text
}

fn at_a_glance(status: &Status, width: Option<u16>) -> String {
    let engine = match &status.engine {
        Some(engine) => format!("running (process {})", engine.pid),
        None => "not running; it is restarted".into(),
    };
    let interfaces: Vec<String> = status
        .engine
        .iter()
        .flat_map(|engine| &engine.interfaces)
        .map(|interface| match &interface.trouble {
            Some(trouble) => format!("{} ({trouble})", interface.name),
            None => format!("{} (mtu {})", interface.name, interface.mtu_bytes),
        })
        .collect();
    let mut told = vec![
        (
            "supervisor",
            format!(
                "{} (process {}, version {})",
                status.host, status.supervisor_pid, status.version
            ),
        ),
        ("owner id", status.owner.clone()),
        ("engine", engine),
        ("interfaces", interfaces.join(", ")),
    ];
    match status.fuse_over_io_uring {
        FuseOverIoUring::Missing => {}
        FuseOverIoUring::Off => told.push(("fuse", FUSE_OFF.into())),
        FuseOverIoUring::On => told.push(("fuse", "over io_uring".into())),
    }
    let mut text = facts(&told);
    text.push('\n');
    text.push_str(&super::pool_table(&status.pools, width));
    if !status.services.is_empty() {
        let mut services = table(&["VOLUME", "DEVICE", "MOUNT", "FTP", "EXPORTS", "REMARK"]);
        for service in &status.services {
            let exports: Vec<String> =
                service.exports.iter().map(|address| format!("aoe:{address}")).collect();
            let mut remark = service.trouble.clone().unwrap_or_default();
            if !service.busy_processes.is_empty() {
                remark.push_str(&format!(" [held by {}]", service.busy_processes.join(", ")));
            }
            services.add_row([
                service.volume.to_string(),
                or_dash(service.device.as_ref().and_then(|path| path.to_str())),
                of_service(&service.mount, service.mount_path.as_ref().map(|path| path.display())),
                of_service(&service.ftp, service.ftp_listen),
                or_dash(Some(&exports.join(","))),
                remark,
            ]);
        }
        text.push('\n');
        text.push_str(&lines(fit(&mut services, width)));
    }
    text.push_str(&crate::cli::held::remark(&status.held));
    let engine_warnings = status.engine.iter().flat_map(|engine| &engine.warnings);
    for warning in status.warnings.iter().chain(engine_warnings) {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn of_service(state: &ServiceState, place: Option<impl std::fmt::Display>) -> String {
    match (state, place) {
        (ServiceState::Off, _) | (_, None) => "-".into(),
        (ServiceState::Waiting, Some(place)) => format!("waiting for {place}"),
        (ServiceState::On, Some(place)) => place.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn all_at_a_glance() {
        let mut all = samples::status();
        all.warnings.push("no users file: nobody can write by FTP".into());
        let text = status(&all, None);
        let expected = "\
all is well

supervisor  host (process 10, version 0.1.0)
owner id    22222222-2222-2222-2222-222222222222
engine      running (process 11)
interfaces  eth0 (mtu 9000)
fuse        by threads; over io_uring from the next attaching on: echo Y > /sys/module/fuse/parameters/enable_uring

POOL     STATE   SIZE      FREE      DISKS  VOLUMES  SURVIVES
cluster  online  3.00 GiB  1.00 GiB  1      1        1 failure

VOLUME     DEVICE      MOUNT   FTP             EXPORTS   REMARK
cluster/v  /dev/loop0  /srv/v  127.0.0.1:2121  aoe:e7.1

warning: no users file: nobody can write by FTP
";
        assert_eq!(text, expected, "\n{text}");
        let fuse = |switch| {
            let all = Status { fuse_over_io_uring: switch, ..samples::status() };
            let text = status(&all, None);
            text.lines().find(|line| line.starts_with("fuse")).map(str::to_owned)
        };
        assert_eq!(fuse(FuseOverIoUring::On).as_deref(), Some("fuse        over io_uring"));
        assert_eq!(fuse(FuseOverIoUring::Missing), None);
    }

    #[test]
    fn what_is_wrong_stands_above_all_else() {
        let mut all = samples::status();
        all.wrong = Some(vec![samples::wrong(), samples::wrong()]);
        let text = status(&all, None);
        let expected = "\
2 things are wrong

warning: pool cluster: disk e1.0 (/dev/sda on n1) is gone
  since  1970-01-12 13:26:40 UTC, for 20 minutes
  data   as far as is known nothing is lost by it; the pool survives 1 further failure
  do     bring it back

warning: pool cluster: ";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("\nsupervisor  host"), "{text}");
        all.wrong = None;
        assert!(status(&all, None).contains("doesn't say what is wrong"), "{text}");
    }
}

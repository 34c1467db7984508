//! Where the time of a volume's requests goes.

use std::time::Duration;

use block::VolumeName;
use comfy_table::Table;
use pool::VolumeStats;

use super::{PERCENTILES, facts, percentiles, section, size, table};

/// `volume stats`; `since` says what the time covers.
pub fn volume_stats(volume: &VolumeName, stats: &VolumeStats, since: &str) -> String {
    let covered = Duration::from_millis(stats.now_ms.saturating_sub(stats.began_ms));
    let mut text = facts(&[
        ("volume", volume.to_string()),
        ("time", format!("{} {since}", block::spoken(covered))),
    ]);
    let any = stats.requests().iter().any(|(_, requests)| !requests.total.is_empty());
    section(&mut text, &requests(stats), any);
    section(&mut text, &destages(stats), !stats.destage.total.is_empty());
    let any = |disk: &pool::DiskStats| {
        disk.operations.by_purpose().iter().any(|(_, done)| !done.total.is_empty())
    };
    section(&mut text, &disks(stats), stats.disks.iter().any(any));
    text
}

fn requests(stats: &VolumeStats) -> Table {
    let mut requests = head(&["REQUEST", "STAGE", "COUNT", "BYTES", "ERRORS"]);
    for (kind, of_kind) in stats.requests() {
        for (stage, times) in of_kind.stages().into_iter().filter(|(_, times)| !times.is_empty()) {
            let (bytes, errors) = match stage {
                "total" => (size(of_kind.bytes), of_kind.errors.to_string()),
                _ => ("-".to_owned(), "-".to_owned()),
            };
            let count = times.count().to_string();
            let row = [kind.to_owned(), stage.to_owned(), count, bytes, errors];
            requests.add_row(row.into_iter().chain(percentiles(times)));
        }
    }
    requests
}

fn destages(stats: &VolumeStats) -> Table {
    let mut destages = head(&["DESTAGES", "BLOCKS", "BYTES", "BYTES EACH"]);
    let done = &stats.destage;
    let runs = done.total.count();
    let each = done.bytes.checked_div(runs).unwrap_or(0);
    let row = [runs.to_string(), done.blocks.to_string(), size(done.bytes), size(each)];
    destages.add_row(row.into_iter().chain(percentiles(&done.total)));
    destages
}

fn disks(stats: &VolumeStats) -> Table {
    let mut disks = head(&["DISK", "NODE", "FOR", "COUNT", "BYTES"]);
    for disk in &stats.disks {
        let by_purpose = disk.operations.by_purpose().into_iter();
        for (purpose, done) in by_purpose.filter(|(_, done)| !done.total.is_empty()) {
            let (name, node) = (disk.name.clone(), disk.node.clone());
            let count = done.total.count().to_string();
            let row = [name, node, purpose.to_owned(), count, size(done.bytes)];
            disks.add_row(row.into_iter().chain(percentiles(&done.total)));
        }
    }
    disks
}

fn head(columns: &[&str]) -> Table {
    table(&[columns, &PERCENTILES].concat())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn each_stage_and_each_disk_has_a_line() {
        let name = VolumeName::new("cluster", "v").unwrap();
        let text = volume_stats(&name, &samples::volume_stats(), "since the pool was opened");
        let expected = "\
volume  cluster/v
time    2 hours since the pool was opened

REQUEST  STAGE   COUNT  BYTES     ERRORS  P50      P90      P99      MAX
read     total   2      8.00 KiB  0       <256us   <8.1ms   <8.1ms   <8.1ms
read     queue   2      -         -       <1us     <1us     <1us     <1us
read     device  2      -         -       <256us   <8.1ms   <8.1ms   <8.1ms
write    total   2      64.0 KiB  1       <16.3ms  <16.3ms  <16.3ms  <16.3ms
write    room    2      -         -       <8.1ms   <8.1ms   <8.1ms   <8.1ms
write    queue   2      -         -       <1us     <1us     <1us     <1us
write    log     1      -         -       <1.0ms   <1.0ms   <1.0ms   <1.0ms

DESTAGES  BLOCKS  BYTES     BYTES EACH  P50     P90      P99      MAX
2         16      64.0 KiB  32.0 KiB    <1.0ms  <32.7ms  <32.7ms  <32.7ms

DISK  NODE  FOR      COUNT  BYTES     P50     P90     P99     MAX
e1.0  n1    read     2      8.00 KiB  <256us  <8.1ms  <8.1ms  <8.1ms
e1.0  n1    network  1      -         <128us  <128us  <128us  <128us
";
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn nothing_done_is_nothing_to_show() {
        let text =
            volume_stats(&VolumeName::new("p", "v").unwrap(), &VolumeStats::default(), "until now");
        assert_eq!(text, "volume  p/v\ntime    less than a second until now\n");
    }
}

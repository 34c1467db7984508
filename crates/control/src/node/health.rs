//! What `smartctl --json` says of a drive, and what that means. ATA, NVMe and SCSI count different things; here they become
//! one [`DriveHealth`].
//!
//! A drive whose own verdict is that it fails is *failing*, also one that reached a threshold of its maker's that means
//! so. It is *ageing* from the first sector on that it can't read, since drives with such die several times as
//! often as those without; with many replaced sectors; and where nine tenths of the writing that it was made for are done.

use block::{DriveHealth, HealthState};
use serde_json::Value;

/// Replaced sectors from which on a drive ages. A few are there in many drives that live for years.
const REALLOCATED_MANY: u64 = 100;
/// Part of its written life from which on a drive ages, in percent.
const WEAR_MANY: u64 = 90;

/// NVMe's critical warnings (base specification, SMART / Health Information log): what each bit says.
const CRITICAL_WARNINGS: [&str; 6] = [
    "its spare blocks are used up",
    "it is hotter or colder than it may be",
    "its reliability is degraded",
    "it is read-only",
    "the backup of its memory failed",
    "its persistent memory is unreliable",
];
/// That of the temperature, which passes.
const TEMPERATURE_WARNING: u64 = 0x2;

/// ATA attributes whose raw value is a number of sectors.
const REALLOCATED_SECTORS: u64 = 5;
const PENDING_SECTORS: u64 = 197;
const UNCORRECTABLE_SECTORS: u64 = 198;

/// What smartctl printed. A field that is missing, or of a form that isn't known, says nothing, and hides no other.
struct Output(Value);

/// An attribute of an ATA drive.
struct Attribute<'a>(&'a Value);

impl Output {
    fn number(&self, pointer: &str) -> Option<u64> {
        self.0.pointer(pointer)?.as_u64()
    }

    fn has_passed(&self) -> Option<bool> {
        self.0.pointer("/smart_status/passed")?.as_bool()
    }

    fn is_nvme(&self) -> bool {
        self.0.pointer("/nvme_smart_health_information_log").is_some_and(Value::is_object)
    }

    fn critical_warning(&self) -> u64 {
        self.number("/nvme_smart_health_information_log/critical_warning").unwrap_or(0)
    }

    fn attributes(&self) -> impl Iterator<Item = Attribute<'_>> {
        let table = self.0.pointer("/ata_smart_attributes/table").and_then(Value::as_array);
        table.into_iter().flatten().map(Attribute)
    }

    /// The raw value of an attribute.
    fn raw(&self, id: u64) -> Option<u64> {
        self.attributes().find(|one| one.0["id"] == id)?.raw()
    }
}

impl Attribute<'_> {
    /// As smartctl reads it: some drives keep something else in the upper part of the number (`0 (2000 0)`).
    fn raw(&self) -> Option<u64> {
        let text = self.0.pointer("/raw/string").and_then(Value::as_str).unwrap_or_default();
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let said = text[..end].parse().ok();
        said.or_else(|| self.0.pointer("/raw/value")?.as_u64())
    }

    /// Whether it failed `now`, or in the `past`, and whether the maker says that a failure of it foretells that of the
    /// drive.
    fn failed(&self, when: &str, prefailure: bool) -> Option<String> {
        let foretells = self.0.pointer("/flags/prefailure").and_then(Value::as_bool);
        let has_failed = self.0["when_failed"] == when && foretells.unwrap_or(false) == prefailure;
        // A name that a drive's database gives it; no more of it than fits.
        let name = self.0["name"].as_str().unwrap_or("an attribute");
        has_failed.then(|| name.chars().filter(|c| !c.is_control()).take(40).collect())
    }
}

/// A drive's health by what smartctl printed; none where it says nothing of that: no such drive, one that sleeps, one
/// that has no SMART.
pub fn drive_health(output: &[u8]) -> Option<DriveHealth> {
    let output = Output(serde_json::from_slice(output).ok()?);
    let reallocated = output.raw(REALLOCATED_SECTORS);
    let reallocated = reallocated.or_else(|| output.number("/scsi_grown_defect_list"));
    let unreadable = output.raw(PENDING_SECTORS).max(output.raw(UNCORRECTABLE_SECTORS));
    let unreadable =
        unreadable.or_else(|| output.number("/nvme_smart_health_information_log/media_errors"));
    let wear = [
        "/endurance_used/current_percent",
        "/nvme_smart_health_information_log/percentage_used",
        "/scsi_percentage_used_endurance_indicator",
    ];
    let wear = wear.iter().find_map(|pointer| output.number(pointer));
    let is_known = output.has_passed().is_some()
        || output.attributes().next().is_some()
        || output.is_nvme()
        || reallocated.is_some();
    if !is_known {
        return None;
    }
    let (state, reason) = judge(&output, reallocated, unreadable, wear);
    let temperature = output.0.pointer("/temperature/current").and_then(Value::as_i64);
    let hours = output.number("/power_on_time/hours");
    Some(DriveHealth {
        state,
        reason,
        temperature_celsius: temperature.and_then(|celsius| celsius.try_into().ok()),
        // 255 is where nobody counts on.
        wear_percent: wear.map(|percent| percent.min(u64::from(u8::MAX) - 1) as u8),
        power_on_hours: hours.and_then(|hours| hours.try_into().ok()),
        reallocated,
        unreadable,
    })
}

/// The worst that can be said, and why.
fn judge(
    output: &Output,
    reallocated: Option<u64>,
    unreadable: Option<u64>,
    wear: Option<u64>,
) -> (HealthState, String) {
    let warning = output.critical_warning();
    let failed =
        |when, prefailure| output.attributes().find_map(|one| one.failed(when, prefailure));
    if warning & !TEMPERATURE_WARNING != 0 {
        let bits = (0..CRITICAL_WARNINGS.len()).filter(|bit| *bit != 1);
        let mut said = bits.filter(|bit| warning >> bit & 1 == 1).map(|bit| CRITICAL_WARNINGS[bit]);
        let said = said.next().unwrap_or("it warns of something that isn't known here");
        return (HealthState::Failing, said.to_owned());
    }
    if let Some(name) = failed("now", true) {
        return (HealthState::Failing, format!("{name} is at its maker's threshold"));
    }
    // NVMe has no verdict but its warnings.
    if output.has_passed() == Some(false) && warning == 0 {
        return (HealthState::Failing, "it expects to fail soon itself".to_owned());
    }
    let reason = if let Some(sectors) = unreadable.filter(|sectors| *sectors > 0) {
        match output.is_nvme() {
            true => format!("{sectors} errors of its medium"),
            false => format!("{sectors} sectors that it can't read"),
        }
    } else if let Some(percent) = wear.filter(|percent| *percent >= WEAR_MANY) {
        format!("{percent} % of the writing that it was made for are done")
    } else if let Some(count) = reallocated.filter(|count| *count >= REALLOCATED_MANY) {
        format!("{count} sectors are replaced by spare ones")
    } else if warning != 0 {
        CRITICAL_WARNINGS[1].to_owned()
    } else if let Some(name) = failed("now", false) {
        format!("{name} is at its maker's threshold")
    } else if let Some(name) = failed("past", true) {
        format!("{name} was at its maker's threshold")
    } else {
        return (HealthState::Good, String::new());
    };
    (HealthState::Ageing, reason)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn health(output: &Value) -> DriveHealth {
        drive_health(output.to_string().as_bytes()).unwrap()
    }

    fn told(output: &Value) -> (HealthState, String) {
        let health = health(output);
        (health.state, health.reason)
    }

    /// An ATA disk as smartctl 7 prints it, without what doesn't count here.
    fn ata(attributes: &[(u64, &str, u64, &str)]) -> Value {
        let table: Vec<Value> = attributes
            .iter()
            .map(|(id, name, raw, when_failed)| {
                json!({
                    "id": id, "name": name, "value": 100, "worst": 100, "thresh": 10,
                    "when_failed": when_failed,
                    "flags": { "value": 51, "string": "PO--CK ", "prefailure": *id == 5 },
                    "raw": { "value": raw, "string": raw.to_string() },
                })
            })
            .collect();
        json!({
            "device": { "name": "/dev/sda", "type": "sat", "protocol": "ATA" },
            "smart_status": { "passed": true },
            "ata_smart_attributes": { "revision": 16, "table": table },
            "power_on_time": { "hours": 36055 },
            "temperature": { "current": 36 },
        })
    }

    fn nvme(warning: u64, used: u64, errors: u64) -> Value {
        json!({
            "device": { "name": "/dev/nvme0", "type": "nvme", "protocol": "NVMe" },
            "smart_status": { "passed": warning == 0, "nvme": { "value": warning } },
            "nvme_smart_health_information_log": {
                "critical_warning": warning, "temperature": 36, "available_spare": 100,
                "available_spare_threshold": 10, "percentage_used": used, "media_errors": errors,
            },
            "temperature": { "current": 36 },
            "power_on_time": { "hours": 2401 },
        })
    }

    #[test]
    fn an_ata_disk_is_good_until_it_cannot_read_something() {
        let few =
            ata(&[(5, "Reallocated_Sector_Ct", 8, ""), (197, "Current_Pending_Sector", 0, "")]);
        let expected = DriveHealth {
            state: HealthState::Good,
            reason: String::new(),
            temperature_celsius: Some(36),
            wear_percent: None,
            power_on_hours: Some(36055),
            reallocated: Some(8),
            unreadable: Some(0),
        };
        assert_eq!(health(&few), expected);
        let pending = ata(&[(197, "Current_Pending_Sector", 16, ""), (198, "Offline", 8, "")]);
        let (state, reason) = told(&pending);
        assert_eq!(
            (state, reason.as_str()),
            (HealthState::Ageing, "16 sectors that it can't read")
        );
        let (state, reason) = told(&ata(&[(5, "Reallocated_Sector_Ct", 640, "")]));
        assert_eq!(state, HealthState::Ageing);
        assert!(reason.contains("640"), "{reason}");
    }

    #[test]
    fn thresholds_of_the_maker_are_failures_now_and_age_in_the_past() {
        let (state, reason) = told(&ata(&[(5, "Reallocated_Sector_Ct", 3000, "now")]));
        assert_eq!(state, HealthState::Failing);
        assert_eq!(reason, "Reallocated_Sector_Ct is at its maker's threshold");
        let (state, reason) = told(&ata(&[(5, "Reallocated_Sector_Ct", 1, "past")]));
        assert_eq!(state, HealthState::Ageing);
        assert!(reason.contains(" was "), "{reason}");
        // What only wears out, as the flags say.
        assert_eq!(told(&ata(&[(9, "Power_On_Hours", 1, "now")])).0, HealthState::Ageing);
        assert_eq!(told(&ata(&[(9, "Power_On_Hours", 1, "past")])).0, HealthState::Good);
        let mut failed = ata(&[]);
        failed["smart_status"]["passed"] = false.into();
        assert_eq!(told(&failed).0, HealthState::Failing);
    }

    #[test]
    fn what_a_drive_keeps_in_the_upper_part_of_a_number_is_no_sectors() {
        let mut disk = ata(&[(5, "Reallocated_Sector_Ct", 131_072_000, "")]);
        disk["ata_smart_attributes"]["table"][0]["raw"]["string"] = "3 (2000 0)".into();
        let found = health(&disk);
        assert_eq!((found.state, found.reallocated), (HealthState::Good, Some(3)));
        // What is odd hides nothing else.
        disk["temperature"]["current"] = "warm".into();
        disk["power_on_time"] = 7.into();
        disk["ata_smart_attributes"]["table"][0]["when_failed"] = "now".into();
        let found = health(&disk);
        assert_eq!((found.state, found.temperature_celsius), (HealthState::Failing, None));
    }

    #[test]
    fn nvme_says_it_by_warnings() {
        let good = health(&nvme(0, 3, 0));
        assert_eq!((good.state, good.wear_percent), (HealthState::Good, Some(3)));
        assert_eq!(good.unreadable, Some(0));
        for (warning, used, errors, state, said) in [
            (0x01, 3, 0, HealthState::Failing, "spare"),
            (0x0c, 3, 0, HealthState::Failing, "reliability"),
            (0x06, 3, 0, HealthState::Failing, "reliability"),
            (0x80, 3, 0, HealthState::Failing, "isn't known"),
            (0x02, 3, 0, HealthState::Ageing, "hotter"),
            (0x00, 90, 0, HealthState::Ageing, "90 %"),
            (0x00, 3, 2, HealthState::Ageing, "2 errors"),
            (0x00, 1000, 0, HealthState::Ageing, "1000 %"),
        ] {
            let (found, reason) = told(&nvme(warning, used, errors));
            assert_eq!(found, state, "{warning:#x} {used} {errors}");
            assert!(reason.contains(said), "{reason}");
        }
        assert_eq!(health(&nvme(0, 1000, 0)).wear_percent, Some(254));
    }

    #[test]
    fn scsi_counts_defects() {
        let disk = |defects: u64| {
            json!({
                "device": { "type": "scsi", "protocol": "SCSI" },
                "smart_status": { "passed": true },
                "scsi_grown_defect_list": defects,
                "temperature": { "current": 34, "drive_trip": 68 },
                "power_on_time": { "hours": 43549, "minutes": 33 },
            })
        };
        assert_eq!(told(&disk(56)).0, HealthState::Good);
        assert_eq!(told(&disk(560)).0, HealthState::Ageing);
    }

    #[test]
    fn whatever_else_is_printed_says_nothing() {
        // No such device; a sleeping one; a virtual one without SMART.
        for nothing in [
            json!({ "smartctl": { "exit_status": 2, "messages": [{ "string": "open failed" }] } }),
            json!({ "power_mode": { "ata_value": 0, "name": "STANDBY" } }),
            json!({ "device": { "type": "scsi" }, "user_capacity": { "bytes": 1 } }),
            json!([]),
            json!({ "smart_status": "odd", "ata_smart_attributes": { "table": 7 } }),
        ] {
            assert_eq!(drive_health(nothing.to_string().as_bytes()), None, "{nothing}");
        }
        for text in ["", "{", "smartctl: not found", "\u{0}"] {
            assert_eq!(drive_health(text.as_bytes()), None);
        }
    }

    #[test]
    fn reasons_fit_where_they_are_sent() {
        for output in [nvme(0x20, u64::MAX, 0), nvme(0, u64::MAX, 0), nvme(0, 0, u64::MAX)] {
            assert!(told(&output).1.len() <= block::REASON_BYTES_MAX, "{output}");
        }
    }
}

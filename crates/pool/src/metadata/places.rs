//! Where each disk was last, so that a person finds one that is gone, whoever owns the pool by then: a property of the
//! pool for each, fields between tabs: when it was there (seconds since 1970), the name that it is addressed by, its
//! path on its machine, its serial number. Its machine is in the disk's own record.

use super::disk_property::key_of;
use super::{MetaRecord, Metadata};
use crate::format::DiskNumber;

/// What begins the properties' names; the disk's number follows.
pub(super) const KEY: &str = "place-";
/// Longest field.
const FIELD_BYTES_MAX: usize = 128;

/// Where a disk was last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastPlace {
    /// When it was there: seconds since 1970, by the clock of who owned the pool.
    pub seen_secs: u64,
    /// The name that it was addressed by.
    pub name: String,
    /// Its path on its machine.
    pub device_name: String,
    /// Its serial number; empty where that isn't known.
    pub serial: String,
}

impl LastPlace {
    /// Whether it is the same place, whenever.
    pub fn is_at(&self, other: &LastPlace) -> bool {
        let LastPlace { seen_secs, .. } = *self;
        *self == LastPlace { seen_secs, ..other.clone() }
    }

    /// As it is kept: nothing in a field ends it, and none is long.
    pub fn cut(&self) -> LastPlace {
        let cut = |text: &str| {
            let text = text.chars().filter(|c| !c.is_control());
            text.scan(0, |len, c| {
                *len += c.len_utf8();
                (*len <= FIELD_BYTES_MAX).then_some(c)
            })
            .collect()
        };
        LastPlace {
            seen_secs: self.seen_secs,
            name: cut(&self.name),
            device_name: cut(&self.device_name),
            serial: cut(&self.serial),
        }
    }
}

impl MetaRecord {
    /// A disk was there.
    pub fn last_place(disk: DiskNumber, place: &LastPlace) -> MetaRecord {
        let LastPlace { seen_secs, name, device_name, serial } = place.cut();
        let value = Some(format!("{seen_secs}\t{name}\t{device_name}\t{serial}"));
        MetaRecord::PoolPropertySet { key: key_of(KEY, disk), value }
    }
}

impl Metadata {
    /// Where a disk was last, as far as that is kept.
    pub fn last_place(&self, disk: DiskNumber) -> Option<LastPlace> {
        let mut fields = self.properties().get(&key_of(KEY, disk))?.split('\t');
        let seen_secs = fields.next()?.parse().ok()?;
        let mut next = || fields.next().map(str::to_owned);
        let place = LastPlace { seen_secs, name: next()?, device_name: next()?, serial: next()? };
        Some(place.cut())
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use crate::format::FailureDomain;
    use crate::metadata::testing::pool_of;

    #[test]
    fn a_place_is_read_as_it_was_kept_and_nothing_ends_a_field() {
        let disk = DiskNumber(1);
        let place = LastPlace {
            seen_secs: 77,
            name: "e1.0".into(),
            device_name: "/dev/disk/by-id/a\tb".into(),
            serial: "ä".repeat(200),
        };
        let meta = pool_of(FailureDomain::Node, &[(0, 64 << 20), (1, 64 << 20)]);
        let kept = meta.with(&[MetaRecord::last_place(disk, &place)]).expect("applies");
        let read = kept.last_place(disk).expect("it is kept");
        assert_eq!((read.seen_secs, read.name.as_str()), (77, "e1.0"));
        assert_eq!(read.device_name, "/dev/disk/by-id/ab");
        assert_eq!(read.serial, "ä".repeat(64));
        assert!(read.is_at(&LastPlace { seen_secs: 1, ..place.cut() }));
        assert_eq!(kept.last_place(DiskNumber(0)), None);
        // What somebody else wrote there is no place.
        for value in ["", "x", "7", "7\ta\tb"] {
            let set =
                MetaRecord::PoolPropertySet { key: key_of(KEY, disk), value: Some(value.into()) };
            assert_eq!(kept.with(&[set]).expect("applies").last_place(disk), None, "{value}");
        }
        let forgotten: Vec<_> = kept.without_properties_of(disk).collect();
        let forgotten = kept.with(&forgotten).expect("applies");
        assert_eq!(forgotten.last_place(disk), None);
    }
}

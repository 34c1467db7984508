//! Sizes as people write and read them.
//!
//! `10G` is 10 GiB, as in LVM and ZFS; `10GB` is 10^10 bytes, `10GiB` says it in full. What is printed
//! can be read back: a decimal such as `4.79G` that isn't a whole number of bytes means the whole blocks
//! of 4 KiB in it, never more than was asked for. A small number alone is nobody's size of a volume: it is
//! asked what was meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A size asked for: bytes, or a share of what is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, schemars::JsonSchema)]
#[schemars(with = "String", extend("type" = ["integer", "string"]))]
pub enum VolumeSize {
    /// That many bytes, rounded up to 4 KiB; when growing, the new size.
    Bytes(u64),
    /// That many percent of the pool's free space, 1 to 100; when growing, in addition.
    PercentFree(u8),
}

/// Why a text isn't a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No digits in front.
    #[error("'{0}' is not a size: want for example 10G, 512M, 1.5T or 100%FREE")]
    NotANumber(String),
    /// The letters behind the number mean nothing.
    #[error(
        "'{0}' has an unknown unit: use K, M, G, T, P (powers of 1024; KiB, MiB, ... are the same), KB, MB, ... (of 1000), or B for bytes"
    )]
    UnknownUnit(String),
    /// A small number alone.
    #[error("'{0}' is {0} bytes: is {0}G meant, {0}M, or really {0}B?")]
    NoUnit(String),
    /// More where a size is meant.
    #[error(
        "'{0}' says how much more: that is understood only where something grows (volume extend)"
    )]
    NotASum(String),
    /// More than 64 bits of bytes.
    #[error("'{0}' is too large")]
    TooLarge(String),
    /// A fraction of a byte.
    #[error("'{0}' is not a whole number of bytes")]
    NotWhole(String),
    /// Zero bytes or percent.
    #[error("'{0}' is zero")]
    Zero(String),
    /// More than all.
    #[error("'{0}' is more than 100 %")]
    OverHundredPercent(String),
}

/// What a printed size is rounded down to.
const BLOCK_BYTES: u128 = 4096;
/// Below this, a number without a unit isn't believed to mean bytes.
const BARE_BYTES_MIN: u64 = 1 << 20;

/// Bytes from text like `10G`, where a small number alone is hardly meant: sizes of disks and volumes.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let bytes = parse_bytes(text)?;
    let text = text.trim();
    match text.ends_with(|c: char| c.is_ascii_digit()) && bytes < BARE_BYTES_MIN {
        true => Err(SizeError::NoUnit(text.into())),
        false => Ok(bytes),
    }
}

/// Bytes from text like `10G`.
pub fn parse_bytes(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let multiplier = unit_bytes(unit.trim()).ok_or_else(|| SizeError::UnknownUnit(text.into()))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.ends_with('.')) {
        return Err(SizeError::NotANumber(text.into()));
    }
    let too_large = || SizeError::TooLarge(text.into());
    let whole: u128 = whole.parse().map_err(|_| too_large())?;
    let mut bytes = whole.checked_mul(u128::from(multiplier)).ok_or_else(too_large)?;
    let fraction = fraction.trim_end_matches('0');
    if !fraction.is_empty() {
        if fraction.len() > 18 {
            return Err(SizeError::NotWhole(text.into()));
        }
        let digits: u128 = fraction.parse().map_err(|_| SizeError::NotANumber(text.into()))?;
        let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| too_large())?);
        let part = digits * u128::from(multiplier);
        if !part.is_multiple_of(scale) && multiplier == 1 {
            return Err(SizeError::NotWhole(text.into()));
        }
        bytes += part / scale;
        // Three digits of something: nobody means the bytes behind them.
        if !part.is_multiple_of(scale) && bytes >= BLOCK_BYTES {
            bytes -= bytes % BLOCK_BYTES;
        }
    }
    match u64::try_from(bytes) {
        Ok(0) => Err(SizeError::Zero(text.into())),
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(too_large()),
    }
}

fn unit_bytes(unit: &str) -> Option<u64> {
    let lower = unit.to_ascii_lowercase();
    let (prefix, base) = match lower.as_str() {
        "" | "b" => return Some(1),
        other => match (other.strip_suffix("ib"), other.strip_suffix('b')) {
            (Some(prefix), _) => (prefix, 1024u64),
            (None, Some(prefix)) => (prefix, 1000),
            (None, None) => (other, 1024),
        },
    };
    let power = match prefix {
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    Some(base.pow(power))
}

impl FromStr for VolumeSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<VolumeSize, SizeError> {
        if text.trim_start().starts_with('+') {
            return Err(SizeError::NotASum(text.trim().into()));
        }
        let upper = text.trim().to_ascii_uppercase();
        let Some(percent) = upper.strip_suffix("%FREE").or_else(|| upper.strip_suffix('%')) else {
            return parse_size(text).map(VolumeSize::Bytes);
        };
        match percent.parse::<u32>() {
            Ok(0) => Err(SizeError::Zero(text.into())),
            Ok(1..=100) => Ok(VolumeSize::PercentFree(percent.parse().unwrap_or(100))),
            Ok(_) => Err(SizeError::OverHundredPercent(text.into())),
            Err(_) => Err(SizeError::NotANumber(text.into())),
        }
    }
}

/// What something that is there is to grow to, or by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// To this size, or by this share of what is free.
    To(VolumeSize),
    /// By so many bytes.
    By(u64),
}

impl FromStr for Growth {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Growth, SizeError> {
        match text.trim().strip_prefix('+') {
            None => text.parse().map(Growth::To),
            // A share of what is free is more in any case.
            Some(more) => match more.parse()? {
                VolumeSize::Bytes(bytes) => Ok(Growth::By(bytes)),
                share => Ok(Growth::To(share)),
            },
        }
    }
}

impl Growth {
    /// The size to ask for, of what has this size now.
    pub fn of(self, present_bytes: u64) -> VolumeSize {
        match self {
            Growth::To(size) => size,
            Growth::By(bytes) => VolumeSize::Bytes(present_bytes.saturating_add(bytes)),
        }
    }
}

/// What something that is there is to be reduced to, or by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// To so many bytes.
    To(u64),
    /// By so many bytes.
    By(u64),
}

impl FromStr for Reduction {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Reduction, SizeError> {
        match text.trim().strip_prefix('-') {
            Some(less) => parse_size(less).map(Reduction::By),
            None => parse_size(text).map(Reduction::To),
        }
    }
}

impl Reduction {
    /// The size to ask for, of what has this size now; none where nothing would be left.
    pub fn of(self, present_bytes: u64) -> Option<u64> {
        match self {
            Reduction::To(bytes) => Some(bytes),
            Reduction::By(bytes) => present_bytes.checked_sub(bytes).filter(|left| *left > 0),
        }
    }
}

impl fmt::Display for VolumeSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VolumeSize::Bytes(bytes) => write!(f, "{bytes}"),
            VolumeSize::PercentFree(percent) => write!(f, "{percent}%FREE"),
        }
    }
}

/// In JSON a size is a number of bytes or a text such as `"10G"` and `"100%FREE"`.
impl Serialize for VolumeSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            VolumeSize::Bytes(bytes) => serializer.serialize_u64(*bytes),
            VolumeSize::PercentFree(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for VolumeSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<VolumeSize, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = VolumeSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes as a number, or a text such as \"10G\" or \"100%FREE\"")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<VolumeSize, E> {
                if bytes == 0 {
                    Err(E::custom("the size is zero"))
                } else {
                    Ok(VolumeSize::Bytes(bytes))
                }
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<VolumeSize, E> {
                match u64::try_from(bytes) {
                    Ok(bytes) => self.visit_u64(bytes),
                    Err(_) => Err(E::custom("the size is negative")),
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<VolumeSize, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// Bytes for people: three significant digits in powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Human(pub u64);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        f.pad(&three_digits(self.0, 1024, UNITS))
    }
}

/// Bytes for people who count in powers of 1000: three significant digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal(pub u64);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
        f.pad(&three_digits(self.0, 1000, UNITS))
    }
}

fn three_digits(bytes: u64, base: u32, units: [&str; 6]) -> String {
    if bytes < base.into() {
        return format!("{bytes} B");
    }
    let base = f64::from(base);
    let (mut value, mut unit) = (bytes as f64 / base, 0);
    // What would be printed as 1000 or more of a unit is printed in the next one.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let decimals = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_are_read_exactly() {
        for (text, bytes) in [
            ("1", 1),
            ("512", 512),
            ("10G", 10 << 30),
            ("10 GiB", 10 << 30),
            ("10gb", 10_000_000_000),
            ("1.5T", 3 << 39),
            ("0.5k", 512),
            ("1.50M", 3 << 19),
            ("16P", 16 << 50),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_printed_can_be_read_back() {
        assert_eq!(parse_size("4.79G"), parse_size("4.79 GiB"));
        let read = parse_size("4.79GiB").unwrap();
        assert!(read.is_multiple_of(4096) && read <= (4.79 * f64::from(1 << 30)) as u64, "{read}");
        for bytes in
            [1u64, 1023, 1 << 10, 4096, 5000, 999 << 10, 10 << 30, 5_143_223_992, u64::MAX >> 12]
        {
            let printed = Human(bytes).to_string();
            let read = parse_size(&printed).unwrap();
            // Three digits, or less than a block.
            let off = read.abs_diff(bytes);
            let near = off < 4096 || off as f64 / (bytes as f64) < 0.006;
            assert!(near, "{bytes}: {printed} is {read}");
        }
        // A whole number of bytes is what was asked for.
        assert_eq!(parse_size("1.5K"), Ok(1536));
    }

    #[test]
    fn a_small_number_alone_is_asked_about() {
        for text in ["1", "512", " 4096 "] {
            let error = text.parse::<VolumeSize>().unwrap_err();
            assert_eq!(error, SizeError::NoUnit(text.trim().into()));
            assert!(error.to_string().contains(&format!("{}G", text.trim())), "{error}");
        }
        assert_eq!("4096B".parse(), Ok(VolumeSize::Bytes(4096)));
        assert_eq!("1048576".parse(), Ok(VolumeSize::Bytes(1 << 20)));
    }

    #[test]
    fn what_is_reduced_is_told_by_size_or_difference() {
        let of = |text: &str| text.parse::<Reduction>().map(|reduction| reduction.of(3 << 30));
        assert_eq!(of("2G"), Ok(Some(2 << 30)));
        assert_eq!(of("-1G"), Ok(Some(2 << 30)));
        assert_eq!(of(" -2.5G "), Ok(Some(1 << 29)));
        assert_eq!(of("-3G"), Ok(None));
        assert_eq!(of("-4G"), Ok(None));
        for wrong in ["", "-", "--1G", "+1G", "50%FREE", "-10%", "0", "-0G", "17"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn growth_is_to_a_size_or_by_one() {
        let of = |text: &str| text.parse::<Growth>().map(|growth| growth.of(1 << 30));
        assert_eq!(of("3G"), Ok(VolumeSize::Bytes(3 << 30)));
        assert_eq!(of("+1G"), Ok(VolumeSize::Bytes(2 << 30)));
        assert_eq!(of("50%FREE"), Ok(VolumeSize::PercentFree(50)));
        assert_eq!(of("+50%FREE"), Ok(VolumeSize::PercentFree(50)));
        for wrong in ["+", "++1G", "-1G", "+1", "+0G"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert_eq!("+1G".parse::<VolumeSize>(), Err(SizeError::NotASum("+1G".into())));
    }

    #[test]
    fn wrong_sizes_say_why() {
        type Kind = fn(String) -> SizeError;
        let cases: [(&str, Kind); 12] = [
            ("", SizeError::NotANumber),
            ("G", SizeError::NotANumber),
            (".5G", SizeError::NotANumber),
            ("5.", SizeError::NotANumber),
            ("1.2.3", SizeError::NotANumber),
            ("-1", SizeError::UnknownUnit),
            ("10X", SizeError::UnknownUnit),
            ("10Gi", SizeError::UnknownUnit),
            ("0", SizeError::Zero),
            ("0.3", SizeError::NotWhole),
            ("99999999P", SizeError::TooLarge),
            ("999999999999999999999999999999999999999999", SizeError::TooLarge),
        ];
        for (text, kind) in cases {
            assert_eq!(parse_bytes(text), Err(kind(text.into())), "{text:?}");
        }
    }

    #[test]
    fn shares_of_the_free_space() {
        assert_eq!("100%FREE".parse(), Ok(VolumeSize::PercentFree(100)));
        assert_eq!("50%free".parse(), Ok(VolumeSize::PercentFree(50)));
        assert_eq!("1%".parse(), Ok(VolumeSize::PercentFree(1)));
        assert!(matches!("101%FREE".parse::<VolumeSize>(), Err(SizeError::OverHundredPercent(_))));
        assert!(matches!("0%FREE".parse::<VolumeSize>(), Err(SizeError::Zero(_))));
        assert!(matches!("x%FREE".parse::<VolumeSize>(), Err(SizeError::NotANumber(_))));
    }

    #[test]
    fn json_takes_numbers_and_texts() {
        let read = |text: &str| serde_json::from_str::<VolumeSize>(text);
        assert_eq!(read("4096").unwrap(), VolumeSize::Bytes(4096));
        assert_eq!(read("\"1G\"").unwrap(), VolumeSize::Bytes(1 << 30));
        assert_eq!(read("\"100%FREE\"").unwrap(), VolumeSize::PercentFree(100));
        for wrong in ["0", "-1", "1.5", "\"\"", "null", "[]"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        for spec in [VolumeSize::Bytes(77), VolumeSize::PercentFree(30)] {
            assert_eq!(read(&serde_json::to_string(&spec).unwrap()).unwrap(), spec);
        }
    }

    #[test]
    fn people_read_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10 << 30, "10.0 GiB"),
            (1536 << 20, "1.50 GiB"),
            (1023 << 20, "1.00 GiB"),
            (500 << 20, "500 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(Human(bytes).to_string(), text);
        }
    }
}

//! Spans of time as people write them: `7s`, `500ms`, `20min`, `1h30min`, `off`.
//!
//! A number without a unit is refused: nobody knows whether `30` was meant as seconds or minutes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A span of time, or `off`, which is kept as zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, schemars::JsonSchema)]
#[schemars(with = "String", extend("pattern" = "^(off|([0-9]+(ms|s|min|h|d) *)+)$"))]
pub struct Span(pub Duration);

/// A text that is no span of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no span of time: want for example 7s, 500ms, 20min, 1h30min or off")]
pub struct SpanError(String);

const UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Span, SpanError> {
        let trimmed = text.trim();
        if trimmed == "off" {
            return Ok(Span(Duration::ZERO));
        }
        millis(trimmed)
            .map(|millis| Span(Duration::from_millis(millis)))
            .ok_or_else(|| SpanError(text.to_owned()))
    }
}

fn millis(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut sum = 0u64;
    let mut former = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, behind) = rest.split_at(digits);
        let letters = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(letters);
        let (_, unit) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        // From large to small, each once: `5s1h` is a slip.
        if unit >= former {
            return None;
        }
        former = unit;
        sum = number.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(sum)?;
        rest = behind.trim_start();
    }
    (former != u64::MAX).then_some(sum)
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if left == 0 {
            return f.write_str("off");
        }
        for (name, unit) in UNITS.into_iter().rev() {
            if left >= unit {
                write!(f, "{}{name}", left / unit)?;
                left %= unit;
            }
        }
        Ok(())
    }
}

block::serde_as_text!(Span);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written() {
        for (text, millis, written) in [
            ("off", 0, "off"),
            ("0s", 0, "off"),
            ("7s", 7000, "7s"),
            ("500ms", 500, "500ms"),
            ("90min", 5_400_000, "1h30min"),
            ("1h 30min", 5_400_000, "1h30min"),
            ("2d", 172_800_000, "2d"),
        ] {
            let span: Span = text.parse().unwrap_or_default();
            assert_eq!(span.0, Duration::from_millis(millis), "{text}");
            assert_eq!(span.to_string(), written);
        }
        for wrong in ["", "7", "s", "7 s", "7m", "5s1h", "1h1h", "-5s", "1.5h", "é", "7s é"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong}");
        }
        let most = format!("{}d", u64::MAX);
        assert!(most.parse::<Span>().is_err());
    }
}

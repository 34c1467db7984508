//! A point in time as protocol cores and the engine see it, and a time that passed as people say it.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds on a clock that only its passer knows: CLOCK_BOOTTIME in production (a machine that
/// slept must not believe that its lease still runs), virtual time in the simulator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// From nanoseconds since the clock's own zero.
    pub fn from_nanos(nanos: u64) -> Instant {
        Instant(nanos)
    }

    /// Nanoseconds since the clock's own zero.
    pub fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero when `earlier` is later.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Instant> for Instant {
    type Output = Duration;

    fn sub(self, rhs: Instant) -> Duration {
        self.since(rhs)
    }
}

/// A time as people say it, in its largest unit that still tells something: "90 seconds", "3 hours".
pub fn spoken(time: Duration) -> String {
    match time.as_secs() {
        0 => "less than a second".into(),
        1 => "1 second".into(),
        s if s < 120 => format!("{s} seconds"),
        s if s < 7200 => format!("{} minutes", s / 60),
        s if s < 48 * 3600 => format!("{} hours", s / 3600),
        s => format!("{} days", s / 86400),
    }
}

/// A time in UTC, by the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalendarTime {
    /// The year.
    pub year: i64,
    /// From 1.
    pub month: i64,
    /// From 1.
    pub day: i64,
    /// From 0.
    pub hour: i64,
    /// From 0.
    pub minute: i64,
    /// From 0.
    pub second: i64,
}

impl CalendarTime {
    /// From seconds since 1970, none before.
    pub fn since_1970(secs: u64) -> CalendarTime {
        CalendarTime::of(i64::try_from(secs).unwrap_or(i64::MAX))
    }

    /// From seconds since 1970.
    pub fn of(secs: i64) -> CalendarTime {
        let (days, second_of_day) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
        // Years begin in March here, so that the leap day is the last; an era is 400 of them.
        let days = days.saturating_add(719_468);
        let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        CalendarTime {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted + 2) / 5 + 1,
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
        }
    }
}

impl std::fmt::Display for CalendarTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let CalendarTime { year, month, day, hour, minute, second } = self;
        write!(f, "{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_in_one_unit() {
        for (seconds, text) in [
            (0, "less than a second"),
            (1, "1 second"),
            (119, "119 seconds"),
            (120, "2 minutes"),
            (7199, "119 minutes"),
            (7200, "2 hours"),
            (48 * 3600 - 1, "47 hours"),
            (48 * 3600, "2 days"),
        ] {
            assert_eq!(spoken(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(CalendarTime::of(951_782_399).to_string(), "2000-02-28 23:59:59");
        // Every day for 800 years: each is the one after the day before.
        let mut before = CalendarTime::of(0);
        for day in 1..292_194 {
            let now = CalendarTime::of(day * 86_400);
            let leap = now.year % 4 == 0 && (now.year % 100 != 0 || now.year % 400 == 0);
            let next = match (before.month, before.day) {
                (12, 31) => (before.year + 1, 1, 1),
                (2, 28) if leap => (before.year, 2, 29),
                (2, 28 | 29) => (before.year, 3, 1),
                (4 | 6 | 9 | 11, 30) | (1 | 3 | 5 | 7 | 8 | 10, 31) => {
                    (before.year, before.month + 1, 1)
                }
                (month, day) => (before.year, month, day + 1),
            };
            assert_eq!((now.year, now.month, now.day), next);
            before = now;
        }
        // Times that no file system has, but a damaged one may.
        let _ = (CalendarTime::of(i64::MAX), CalendarTime::of(i64::MIN));
    }
}

//! How long things took, as a count for each power of two: what is done a hundred thousand times a second
//! can be noted, and two histograms add up and subtract exactly.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many buckets a histogram has: the last begins at 67 s.
pub const HISTOGRAM_BUCKETS: usize = 28;

/// How long something took: bucket `n` counts what took less than `2^n` microseconds and isn't in a
/// bucket before it; the last counts all else. As JSON it has its percentiles beside the buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "Written", into = "Written")]
pub struct Histogram {
    buckets: [u64; HISTOGRAM_BUCKETS],
    sum_us: u64,
}

impl Histogram {
    /// What the buckets count.
    pub fn buckets(&self) -> &[u64; HISTOGRAM_BUCKETS] {
        &self.buckets
    }

    /// The end of a bucket; `None` for the last, which has none.
    pub fn bound(bucket: usize) -> Option<Duration> {
        (bucket + 1 < HISTOGRAM_BUCKETS).then(|| Duration::from_micros(1 << bucket))
    }

    /// How many were noted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Whether none was noted.
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(|count| *count == 0)
    }

    /// How long all took together.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us)
    }

    /// The end of the bucket below which so many of a hundred lie, so at most twice the truth; `None` if
    /// that is the last or there is nothing.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let wanted = self.count().saturating_mul(percent).div_ceil(100).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        bucket.and_then(Histogram::bound)
    }

    /// Counts one that took so long.
    pub fn note(&mut self, took: Duration) {
        let seconds_us = took.as_secs().saturating_mul(1_000_000);
        let us = seconds_us.saturating_add(u64::from(took.subsec_micros()));
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.buckets[bucket.min(HISTOGRAM_BUCKETS - 1)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Adds what another one counted.
    pub fn add(&mut self, other: &Histogram) {
        for (own, more) in self.buckets.iter_mut().zip(other.buckets) {
            *own = own.saturating_add(more);
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    /// What was noted since it was as `earlier`.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut since = *self;
        for (own, before) in since.buckets.iter_mut().zip(earlier.buckets) {
            *own = own.saturating_sub(before);
        }
        since.sum_us = since.sum_us.saturating_sub(earlier.sum_us);
        since
    }
}

/// A histogram as JSON. Who reads it needs the buckets and the sum; all else follows from them.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Written {
    #[serde(default)]
    count: u64,
    sum_us: u64,
    #[serde(default)]
    p50_us: Option<u64>,
    #[serde(default)]
    p90_us: Option<u64>,
    #[serde(default)]
    p99_us: Option<u64>,
    #[serde(default)]
    max_us: Option<u64>,
    buckets: Vec<u64>,
}

impl From<Histogram> for Written {
    fn from(histogram: Histogram) -> Written {
        let us = |percent| histogram.percentile(percent).map(|time| time.as_micros() as u64);
        Written {
            count: histogram.count(),
            sum_us: histogram.sum_us,
            p50_us: us(50),
            p90_us: us(90),
            p99_us: us(99),
            max_us: us(100),
            buckets: histogram.buckets.to_vec(),
        }
    }
}

impl From<Written> for Histogram {
    fn from(written: Written) -> Histogram {
        let mut histogram = Histogram { sum_us: written.sum_us, ..Histogram::default() };
        for (bucket, count) in written.buckets.into_iter().enumerate() {
            let own = &mut histogram.buckets[bucket.min(HISTOGRAM_BUCKETS - 1)];
            *own = own.saturating_add(count);
        }
        histogram
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(micros: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        micros.iter().for_each(|us| histogram.note(Duration::from_micros(*us)));
        histogram
    }

    #[test]
    fn buckets_double() {
        let mut histogram = Histogram::default();
        assert!(histogram.is_empty());
        for (us, bucket) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (1024, 11)] {
            let before = histogram.buckets()[bucket];
            histogram.note(Duration::from_micros(us));
            assert_eq!(histogram.buckets()[bucket], before + 1, "{us}");
            assert!(Histogram::bound(bucket).is_some_and(|end| Duration::from_micros(us) < end));
        }
        histogram.note(Duration::MAX);
        assert_eq!(histogram.buckets()[HISTOGRAM_BUCKETS - 1], 1);
        assert_eq!(Histogram::bound(HISTOGRAM_BUCKETS - 1), None);
        assert_eq!(histogram.count(), 8);
    }

    #[test]
    fn percentiles_are_the_ends_of_buckets() {
        assert_eq!(Histogram::default().percentile(50), None);
        let histogram = of(&[10, 10, 10, 1000]);
        assert_eq!(histogram.percentile(50), Some(Duration::from_micros(16)));
        assert_eq!(histogram.percentile(99), Some(Duration::from_micros(1024)));
        assert_eq!(histogram.sum(), Duration::from_micros(1030));
    }

    #[test]
    fn json_has_percentiles_and_is_read_back_from_its_buckets() {
        let histogram = of(&[10, 10, 1000]);
        let value = serde_json::to_value(histogram).unwrap();
        assert_eq!(
            (&value["count"], &value["p50_us"], &value["max_us"]),
            (&3.into(), &16.into(), &1024.into())
        );
        assert_eq!(serde_json::from_value::<Histogram>(value).unwrap(), histogram);
        let value = serde_json::to_value(Histogram::default()).unwrap();
        assert!(
            value["p50_us"].is_null()
                && value["buckets"].as_array().unwrap().len() == HISTOGRAM_BUCKETS
        );
        // A program of another version may have more buckets: what took longest stays what took longest.
        let more = format!(r#"{{"sum_us":1,"buckets":[{}1]}}"#, "0,".repeat(40));
        let read: Histogram = serde_json::from_str(&more).unwrap();
        assert_eq!(read.buckets()[HISTOGRAM_BUCKETS - 1], 1);
    }

    proptest! {
        /// A percentile is above the sample that it stands for, and at most twice that.
        #[test]
        fn a_percentile_is_at_most_twice_the_truth(
            mut samples in prop::collection::vec(0u64..60_000_000, 1..200),
            percent in 1u64..=100,
        ) {
            let histogram = of(&samples);
            samples.sort_unstable();
            let truth = samples[(samples.len() * percent as usize).div_ceil(100) - 1];
            let told = histogram.percentile(percent).unwrap().as_micros() as u64;
            prop_assert!(told > truth && told <= (2 * truth).max(1), "{told} for {truth}");
        }

        #[test]
        fn histograms_add_up_and_subtract(
            one in prop::collection::vec(any::<u32>().prop_map(u64::from), 0..50),
            two in prop::collection::vec(any::<u32>().prop_map(u64::from), 0..50),
        ) {
            let mut both = of(&one);
            both.add(&of(&two));
            prop_assert_eq!(both, of(&[one.clone(), two.clone()].concat()));
            prop_assert_eq!(both.since(&of(&one)), of(&two));
            prop_assert_eq!(both.count(), (one.len() + two.len()) as u64);
        }
    }
}

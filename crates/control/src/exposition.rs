//! What Prometheus reads: the text format, version 0.0.4.

use std::fmt::Write as _;

use block::Histogram;

/// The text as it grows.
#[derive(Default)]
pub(crate) struct Page {
    text: String,
}

impl Page {
    /// All of it.
    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// Begins a family of series.
    pub(crate) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string doesn't fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// One of its series.
    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        self.line(name, labels, None, &value.to_string());
    }

    /// A part of a whole, of one of its families.
    pub(crate) fn percent(&mut self, name: &str, labels: &[(&str, &str)], percent: u8) {
        self.line(name, labels, None, &format!("{}.{:02}", percent / 100, percent % 100));
    }

    /// Of a family of histograms.
    pub(crate) fn histogram(&mut self, name: &str, labels: &[(&str, &str)], times: &Histogram) {
        let bucket = format!("{name}_bucket");
        let count = times.count().to_string();
        let mut below = 0u64;
        // The last has no end: it is in the line for all.
        let bounded = times.buckets().split_last().map_or(&[][..], |(_, bounded)| bounded);
        for (index, count) in bounded.iter().enumerate() {
            below += count;
            let end = seconds(1u64.checked_shl(index as u32).unwrap_or(u64::MAX));
            self.line(&bucket, labels, Some(&end), &below.to_string());
        }
        self.line(&bucket, labels, Some("+Inf"), &count);
        let sum = u64::try_from(times.sum().as_micros()).unwrap_or(u64::MAX);
        self.line(&format!("{name}_sum"), labels, None, &seconds(sum));
        self.line(&format!("{name}_count"), labels, None, &count);
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], end: Option<&str>, value: &str) {
        self.text.push_str(name);
        let end = end.map(|end| ("le", end));
        for (index, (label, content)) in labels.iter().copied().chain(end).enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{label}=\"");
            for c in content.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() || end.is_some() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// Microseconds as seconds, exactly.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

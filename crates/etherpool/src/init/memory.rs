//! How much memory a node takes, for whoever chooses machines for it.

/// The memory of a machine, in KiB as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All that the kernel has.
    pub total_kib: u64,
    /// What isn't available to programs any more.
    pub used_kib: u64,
}

impl Memory {
    /// At the moment.
    pub fn now() -> Option<Memory> {
        Memory::parse(&std::fs::read_to_string("/proc/meminfo").ok()?)
    }

    fn parse(text: &str) -> Option<Memory> {
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').split_ascii_whitespace().next()?.parse::<u64>().ok()
        };
        let (total_kib, available) = (of("MemTotal")?, of("MemAvailable")?);
        Some(Memory { total_kib, used_kib: total_kib.saturating_sub(available) })
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} MiB of {} MiB", self.used_kib >> 10, self.total_kib >> 10)
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;

    #[test]
    fn the_kernels_words_are_understood() {
        let text =
            "MemTotal:         499712 kB\nMemFree:          1 kB\nMemAvailable:     343000 kB\n";
        let memory = Memory::parse(text);
        assert_eq!(memory, Some(Memory { total_kib: 499_712, used_kib: 156_712 }));
        assert_eq!(memory.map(|memory| memory.to_string()).as_deref(), Some("153 MiB of 488 MiB"));
        assert_eq!(Memory::parse(""), None);
    }
}

//! Processor time of a process with all its threads.

use std::fs;

use anyhow::Context;

/// What a process used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTime {
    /// On a processor, exact.
    pub nanos: u64,
    /// Of it in the program, by ticks of 10 ms.
    pub user_ticks: u64,
    /// And in the kernel.
    pub system_ticks: u64,
}

impl CpuTime {
    /// Of the process `pid` and its threads that live.
    pub fn of(pid: u32) -> anyhow::Result<CpuTime> {
        let mut time = CpuTime::default();
        for task in fs::read_dir(format!("/proc/{pid}/task")).context("the target's process")? {
            let path = task?.path();
            // A thread may end at any moment.
            let Ok(text) = fs::read_to_string(path.join("schedstat")) else { continue };
            let nanos = text.split_whitespace().next().context("schedstat")?;
            time.nanos += nanos.parse::<u64>()?;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> =
            stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
        time.user_ticks = fields.get(11).context("utime")?.parse()?;
        time.system_ticks = fields.get(12).context("stime")?.parse()?;
        Ok(time)
    }

    /// What was used since.
    pub fn since(self, begin: CpuTime) -> CpuTime {
        CpuTime {
            nanos: self.nanos.saturating_sub(begin.nanos),
            user_ticks: self.user_ticks.saturating_sub(begin.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(begin.system_ticks),
        }
    }
}

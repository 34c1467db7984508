//! One supervisor per state directory: two with one identity would both believe to own its pools.

use std::fs::File;
use std::io::Write;

use anyhow::Context;
use control::api::{ApiError, ErrorCode};
use control::config::SupervisorConfig;
use rustix::fs::{FlockOperation, flock};

/// Held as long as the supervisor runs; the kernel lets go of it however the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    pid_file: std::path::PathBuf,
}

/// Takes the lock and writes the pid file.
pub fn take(config: &SupervisorConfig) -> anyhow::Result<Lock> {
    for directory in [&config.state_dir, &config.run_dir] {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("{} can't be made", directory.display()))?;
    }
    let path = config.state_dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("{} can't be opened", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(ApiError::new(
                ErrorCode::Busy,
                format!(
                    "a supervisor with the state directory {} runs already",
                    config.state_dir.display()
                ),
            )
            .remedy("stop it first, or give this one a state-dir of its own")
            .into());
        }
        Err(error) => {
            return Err(error).with_context(|| format!("{} can't be locked", path.display()));
        }
    }
    let pid_file = config.pid_file();
    let mut pid = tempfile::NamedTempFile::new_in(&config.run_dir)
        .with_context(|| format!("{} can't be written", config.run_dir.display()))?;
    writeln!(pid, "{}", std::process::id())?;
    pid.persist(&pid_file).with_context(|| format!("{} can't be written", pid_file.display()))?;
    Ok(Lock { _file: file, pid_file })
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A stale pid file is harmless: whoever reads it checks the process.
        let _ = std::fs::remove_file(&self.pid_file);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_why() {
        let directory = tempfile::tempdir().unwrap();
        let config = SupervisorConfig {
            state_dir: directory.path().join("state"),
            run_dir: directory.path().join("run"),
            ..SupervisorConfig::default()
        };
        let first = take(&config).unwrap();
        let pid = std::fs::read_to_string(config.pid_file()).unwrap();
        assert_eq!(pid.trim(), std::process::id().to_string());
        let error = take(&config).unwrap_err();
        assert_eq!(error.downcast::<ApiError>().unwrap().code, ErrorCode::Busy);
        drop(first);
        assert!(!config.pid_file().exists());
        take(&config).unwrap();
    }
}

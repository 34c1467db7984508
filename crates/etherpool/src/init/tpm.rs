//! The machine's TPM, as the kernel hands it on: a command is written, and its answer read.
//!
//! It is asked on a thread of its own and for a limited time: one that hangs holds up that thread, and no node.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use boot::tpm::{BYTES_MAX, Error};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// By the first the kernel keeps apart who uses it; the second is all that there is of a TPM 1.2.
const DEVICES: [&str; 2] = ["/dev/tpmrm0", "/dev/tpm0"];
/// How long a few commands may take. Slow ones of sound TPMs take seconds, and a node waits for nothing else meanwhile.
const LIMIT: Duration = Duration::from_secs(15);

/// The TPM, if there is one.
#[derive(Clone)]
pub struct Tpm {
    devices: Vec<PathBuf>,
    limit: Duration,
    /// One is asked at a time.
    turn: Arc<Semaphore>,
}

/// Why it does nothing for this node.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It isn't there, as far as the kernel knows.
    #[error("this machine has no TPM")]
    None,
    /// It says nothing.
    #[error("the TPM doesn't answer within {} s", .0.as_secs())]
    Hangs(Duration),
    /// Asking it ended by a fault.
    #[error("asking the TPM failed")]
    Fault,
    /// It doesn't do it.
    #[error(transparent)]
    Fails(#[from] Error),
}

/// What takes its commands.
pub struct Device(File);

impl Tpm {
    /// Of this machine.
    pub fn new() -> Tpm {
        Tpm::at(DEVICES.map(PathBuf::from).to_vec(), LIMIT)
    }

    fn at(devices: Vec<PathBuf>, limit: Duration) -> Tpm {
        Tpm { devices, limit, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Has it do something, and waits for that as long as it may take.
    pub async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Device) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Unusable> {
        let hangs = || Unusable::Hangs(self.limit);
        // Who was asked before and hasn't answered yet doesn't answer this, either.
        let turn = Arc::clone(&self.turn).try_acquire_owned().map_err(|_| hangs())?;
        let devices = self.devices.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let done = Device::open(&devices).and_then(|mut device| Ok(work(&mut device)?));
            drop(turn);
            done
        });
        let asked = tokio::time::timeout(self.limit, asked).await.map_err(|_| hangs())?;
        asked.map_err(|_| Unusable::Fault)?
    }
}

impl Device {
    fn open(devices: &[PathBuf]) -> Result<Device, Unusable> {
        for device in devices {
            match File::options().read(true).write(true).open(device) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return Ok(Device(opened.map_err(Error::Unheard)?)),
            }
        }
        Err(Unusable::None)
    }

    /// Gives it a command, and reads what it answers.
    pub fn ask(&mut self, command: &[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
        // As a whole: half a command is none.
        if self.0.write(command)? != command.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let mut answer = Zeroizing::new(vec![0; BYTES_MAX]);
        let len = self.0.read(&mut answer)?;
        answer.truncate(len);
        Ok(answer)
    }
}

#[cfg(test)]
impl Tpm {
    /// Of a machine without one.
    pub fn none() -> Tpm {
        Tpm::at(Vec::new(), LIMIT)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_machine_without_one_says_so_and_one_that_answers_nonsense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let none = Tpm::at(vec![dir.path().join("a"), dir.path().join("b")], LONG);
        let asked = none.ask(|_| Ok(())).await;
        assert!(matches!(asked, Err(Unusable::None)), "{asked:?}");
        // It answers each command with that command.
        let pipe = dir.path().join("b");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let echo = Tpm::at(none.devices, LONG);
        let answered = echo.ask(|device| Ok(device.ask(b"a command")?.to_vec())).await;
        assert_eq!(answered.unwrap(), b"a command");
        let sealed =
            echo.ask(|device| boot::tpm::seal(&mut |bytes: &[u8]| device.ask(bytes), b"x")).await;
        assert!(matches!(sealed, Err(Unusable::Fails(_))));
    }

    #[tokio::test]
    async fn one_that_hangs_is_waited_for_once_and_not_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("tpm");
        std::fs::write(&device, "").unwrap();
        let tpm = Tpm::at(vec![device], Duration::ZERO);
        let (end, hanging) = std::sync::mpsc::channel::<()>();
        let hang = move |_: &mut Device| {
            let _ = hanging.recv();
            Ok(())
        };
        let asked = tpm.ask(hang).await;
        assert!(matches!(asked, Err(Unusable::Hangs(_))));
        let patient = Tpm { limit: LONG, ..tpm };
        let asked = patient.ask(|_| Ok(())).await;
        assert!(matches!(asked, Err(Unusable::Hangs(_))), "the first one still hangs");
        drop(end);
        drop(patient.turn.acquire().await.unwrap());
        assert!(patient.ask(|_| Ok(())).await.is_ok());
        let asked = patient.ask(|_| -> Result<(), _> { panic!("on purpose") }).await;
        assert!(matches!(asked, Err(Unusable::Fault)));
        assert!(patient.ask(|_| Ok(())).await.is_ok());
    }
}

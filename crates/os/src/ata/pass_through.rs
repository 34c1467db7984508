//! SMART commands of an export's clients, taken to the disk behind it.

use aoe_target::AtaPassThrough;
use aoe_target::{SmartCommand, SmartFeature, SmartReply};
use block::{Buffer, IoError};
use futures::FutureExt;
use futures::future::{LocalBoxFuture, ready};

use super::{AtaAnswer, AtaCommand, AtaDisk, AtaError};

/// What a disk says to a command that it doesn't have.
const ABORTED: (u8, u8) = (0x51, 0x04);

impl AtaPassThrough for AtaDisk {
    fn smart(&self, command: SmartCommand) -> LocalBoxFuture<'static, Result<SmartReply, IoError>> {
        // What this doesn't let through, the disk "doesn't have".
        let Some(ata) = translate(&command) else { return ready(Ok(aborted())).boxed_local() };
        let path = self.path().display().to_string();
        let answer = self.execute(ata);
        async move {
            match answer.await {
                Ok(answer) => Ok(reply(answer)),
                Err(AtaError::Partition) => Ok(aborted()),
                Err(error) => {
                    tracing::info!(disk = path, %error, "a client's SMART command failed");
                    Err(of(&error))
                }
            }
        }
        .boxed_local()
    }
}

fn translate(command: &SmartCommand) -> Option<AtaCommand> {
    let data = match command.feature {
        SmartFeature::WriteLog => Some(command.data.to_vec()),
        _ => None,
    };
    // These have one sector or none; what clients put into the register varies.
    let count = match command.feature {
        SmartFeature::ReadData | SmartFeature::ReadThresholds => 1,
        SmartFeature::ReadLog | SmartFeature::WriteLog => command.count,
        _ => 0,
    };
    AtaCommand::smart(command.feature.raw(), count, command.lba_low, data)
}

fn reply(answer: AtaAnswer) -> SmartReply {
    let registers = answer.registers;
    let [low, middle, high, ..] = registers.lba.to_le_bytes();
    let [_, count] = registers.count.to_be_bytes();
    SmartReply {
        status: registers.status,
        error: registers.error,
        count,
        lba: [low, middle, high],
        data: Buffer::copy_of(&answer.data),
    }
}

fn aborted() -> SmartReply {
    let (status, error) = ABORTED;
    SmartReply { status, error, count: 0, lba: [0; 3], data: Buffer::empty() }
}

fn of(error: &AtaError) -> IoError {
    match error {
        AtaError::NotAta | AtaError::Partition => IoError::Unsupported,
        AtaError::Busy
        | AtaError::TimedOut
        | AtaError::Gone
        | AtaError::Transport { .. }
        | AtaError::System(_) => IoError::Lost,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ata::{Registers, Transfer};

    fn command(feature: SmartFeature, count: u8, lba_low: u8, data: &[u8]) -> SmartCommand {
        SmartCommand { feature, count, lba_low, data: Buffer::copy_of(data) }
    }

    #[test]
    fn commands_reach_the_disk_as_the_standard_has_them() {
        for (command, features, count, transfer) in [
            (command(SmartFeature::ReadData, 0, 0, &[]), 0xd0, 1, Transfer::In { sectors: 1 }),
            (command(SmartFeature::ReadLog, 2, 6, &[]), 0xd5, 2, Transfer::In { sectors: 2 }),
            (command(SmartFeature::ReturnStatus, 1, 0, &[]), 0xda, 0, Transfer::None),
            (command(SmartFeature::ExecuteTest, 0, 1, &[]), 0xd4, 0, Transfer::None),
            (
                command(SmartFeature::WriteLog, 1, 0x80, &[5; 512]),
                0xd6,
                1,
                Transfer::Out(vec![5; 512]),
            ),
        ] {
            let ata = translate(&command).unwrap();
            assert_eq!((ata.features, ata.count, ata.transfer), (features, count, transfer));
            assert_eq!(ata.lba, 0x00c2_4f00 | u64::from(command.lba_low));
        }
        // The log by which a disk can be overwritten.
        assert_eq!(translate(&command(SmartFeature::WriteLog, 1, 0xe0, &[0; 512])), None);
    }

    #[test]
    fn replies_carry_the_registers() {
        let registers =
            Registers { status: 0x50, error: 0, count: 0x1234, lba: 0x2c_f400, device: 0x40 };
        let said = reply(AtaAnswer { registers, data: Vec::new() });
        assert_eq!((said.status, said.count, said.lba), (0x50, 0x34, [0x00, 0xf4, 0x2c]));
        assert!(aborted().is_failure() && !said.is_failure());
    }
}

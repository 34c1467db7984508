//! By what the messages of a session are sealed and opened, where it has keys.

use aoe_wire::{Sealing, SessionReply, open_sealed};
use block::Instant;
use seal::{Keys, Rejected};

use super::link::Verdict;
use super::opening::Message;

/// The keys of a session, if it has any.
pub(crate) struct Seals(pub Option<Keys>);

impl Seals {
    /// Whether its messages are sealed.
    pub fn are_in_use(&self) -> bool {
        self.0.is_some()
    }

    /// By what to seal a message now.
    pub fn sealing(&mut self, now: Instant) -> Option<Sealing<'_>> {
        self.0.as_mut().map(|keys| Sealing { sealer: &mut keys.sealer, now })
    }

    /// What an answer says, if the target says so, and for the first time.
    pub fn open<'a>(
        &mut self,
        reply: &SessionReply,
        message: Message<'a>,
        opened: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Verdict> {
        let Message { frame, payload, .. } = message;
        match &mut self.0 {
            None if reply.seal.is_present() => Err(Verdict::Forged),
            None => Ok(payload),
            Some(Keys { opener, .. }) => {
                open_sealed(frame, reply.operation, &reply.seal, payload, opener, opened).map_err(
                    |rejected| match rejected {
                        Rejected::Forged => Verdict::Forged,
                        Rejected::Repeated => Verdict::Late,
                    },
                )
            }
        }
    }
}

//! Who may ask an export: the lists that the protocol itself has. They are in memory; an export
//! that belongs to a pool ignores them, because by the protocol anyone could lock out its owner.

use crate::wire::{DIRECTIVES_MAX, Directive, DirectiveCommand, MacAddr, MaskError, RESERVED_MAX};

/// The mask list and the reservation.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    mask: Vec<MacAddr>,
    reserved: Vec<MacAddr>,
}

impl Lists {
    /// Whether a client is answered at all.
    pub(super) fn is_heard(&self, client: MacAddr) -> bool {
        self.mask.is_empty() || self.mask.contains(&client)
    }

    /// Whether the export isn't reserved for others.
    pub(super) fn may_use(&self, client: MacAddr) -> bool {
        self.reserved.is_empty() || self.reserved.contains(&client)
    }

    pub(super) fn mask(&self) -> &[MacAddr] {
        &self.mask
    }

    pub(super) fn reserved(&self) -> &[MacAddr] {
        &self.reserved
    }

    /// Executes directives in order; on failure the index of the one that failed. Those before it
    /// stay executed, as the protocol has it.
    pub(super) fn edit_mask(&mut self, directives: &[Directive]) -> Result<(), (u8, MaskError)> {
        for (index, directive) in directives.iter().enumerate() {
            let index = u8::try_from(index).unwrap_or(u8::MAX);
            match directive.command {
                DirectiveCommand::None => {}
                DirectiveCommand::Add if self.mask.contains(&directive.mac) => {}
                DirectiveCommand::Add if self.mask.len() >= DIRECTIVES_MAX => {
                    return Err((index, MaskError::ListFull));
                }
                DirectiveCommand::Add => self.mask.push(directive.mac),
                DirectiveCommand::Delete => self.mask.retain(|mac| *mac != directive.mac),
                DirectiveCommand::Unknown(_) => return Err((index, MaskError::BadDirective)),
            }
        }
        Ok(())
    }

    /// Sets the reservation; false when it is somebody else's.
    pub(super) fn reserve(&mut self, client: MacAddr, macs: &[MacAddr], force: bool) -> bool {
        if !force && !self.may_use(client) {
            return false;
        }
        self.reserved = macs[..macs.len().min(RESERVED_MAX)].to_vec();
        true
    }
}

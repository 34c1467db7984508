//! What clients leave with an export by the protocol: configuration string, mask list, reservation.
//! An export that belongs to a pool ignores the lists, because by the protocol anyone could lock out
//! its owner.

use aoe_wire::{
    CONFIG_STRING_BYTES_MAX, DIRECTIVES_MAX, Directive, DirectiveCommand, MacAddr, MaskError,
    RESERVED_MAX,
};

/// What an export remembers from one run to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// The configuration string, at most 1024 bytes.
    pub config_string: Vec<u8>,
    /// Whom it answers at all, at most 255; everybody if empty.
    pub mask: Vec<MacAddr>,
    /// For whom it is reserved, at most 255; for everybody if empty.
    pub reserved: Vec<MacAddr>,
}

impl Remembered {
    /// The same within the protocol's bounds: it comes from a file.
    pub(crate) fn bounded(mut self) -> Remembered {
        self.config_string.truncate(CONFIG_STRING_BYTES_MAX);
        self.mask.truncate(DIRECTIVES_MAX);
        self.reserved.truncate(RESERVED_MAX);
        self
    }

    /// Whether a client is answered at all.
    pub(crate) fn is_heard(&self, client: MacAddr) -> bool {
        self.mask.is_empty() || self.mask.contains(&client)
    }

    /// Whether the export isn't reserved for others.
    pub(crate) fn may_use(&self, client: MacAddr) -> bool {
        self.reserved.is_empty() || self.reserved.contains(&client)
    }

    /// Executes directives in order; on failure the index of the one that failed. Those before it
    /// stay executed, as the protocol has it.
    pub(crate) fn edit_mask(&mut self, directives: &[Directive]) -> Result<(), (u8, MaskError)> {
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
    pub(crate) fn reserve(&mut self, client: MacAddr, macs: &[MacAddr], force: bool) -> bool {
        if !force && !self.may_use(client) {
            return false;
        }
        self.reserved = macs[..macs.len().min(RESERVED_MAX)].to_vec();
        true
    }
}

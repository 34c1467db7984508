//! Whether somebody else answers for an export's address. Initiators take two targets of one address
//! for two paths to one disk, and write to both.

/// Whether to look for others at an export's address before it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Probe {
    /// No.
    #[default]
    Off,
    /// Report others, and answer at once all the same.
    Report,
    /// Answer only when nobody else does. Once up, an export stays up.
    Defend,
}

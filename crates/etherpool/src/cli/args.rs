//! Arguments that several commands have in common.

use block::check_name;
use clap::Args;

/// How a command that destroys something is confirmed.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Confirmation {
    /// Do it without asking
    #[arg(long, short = 'y')]
    pub yes: bool,

    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

impl Confirmation {
    /// Whether nobody is asked or shown anything: what the operation would be refused for, it says itself.
    pub fn is_given(self) -> bool {
        self.yes && !self.dry_run
    }
}

/// The name of a pool or volume, checked.
pub fn parse_name(text: &str) -> Result<String, block::InvalidName> {
    check_name(text).map(|()| text.to_owned())
}

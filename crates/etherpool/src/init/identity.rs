//! The key of a node that keeps nothing: handed to it at each boot, as the boot server keeps it.

use anyhow::bail;
use boot::node::Kept;
use seal::KeyPair;

use super::plan::key_of;

/// Makes the key of what the boot server keeps of it.
pub fn open(kept: &Kept) -> anyhow::Result<KeyPair> {
    match kept {
        Kept::Plain { secret } => key_of(secret),
        Kept::Tpm { .. } => {
            bail!("its key is sealed to a TPM, which this version of the image doesn't use")
        }
    }
}

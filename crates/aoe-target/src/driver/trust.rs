//! Whom disks obey, as their machine's administrator has it: where the key of a pool is lost nobody else can say so.

use aoe_wire::ShelfSlot;
use block::IoError;
use seal::PoolKey;

use super::{ExportDevice, TargetDriver};

impl TargetDriver {
    /// The key of the pool that a disk obeys.
    pub fn obeyed_by(&self, address: ShelfSlot) -> Option<PoolKey> {
        let exports = self.inner.exports.borrow();
        let found = exports.values().find(|export| export.address == address)?;
        match &found.device {
            ExportDevice::Fenced(medium) => medium.grant().map(|grant| grant.key()),
            ExportDevice::Device(_) => None,
        }
    }

    /// Has a disk obey whoever claims it if it obeys one of these keys, which are lost: that one.
    ///
    /// # Errors
    /// As for [`TargetDriver::forget_grant`].
    pub async fn reset_owner(
        &self,
        address: ShelfSlot,
        lost: &[PoolKey],
    ) -> Result<Option<PoolKey>, IoError> {
        let Some(key) = self.obeyed_by(address).filter(|key| lost.contains(key)) else {
            return Ok(None);
        };
        self.forget_grant(address).await?;
        Ok(Some(key))
    }

    /// Has a disk obey whoever claims it, with whatever is on it.
    ///
    /// # Errors
    /// [`IoError::Unsupported`] where nothing is exported there that could be owned; others when that can't be written.
    pub async fn forget_grant(&self, address: ShelfSlot) -> Result<(), IoError> {
        let found = {
            let exports = self.inner.exports.borrow();
            let found = exports.iter().find(|(_, export)| export.address == address);
            found.map(|(id, export)| (*id, export.device.clone()))
        };
        let Some((id, ExportDevice::Fenced(medium))) = found else {
            return Err(IoError::Unsupported);
        };
        medium.forget_grant().await?;
        self.inner.refresh(id).await;
        Ok(())
    }
}

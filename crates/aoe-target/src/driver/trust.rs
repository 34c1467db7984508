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
        // What nobody owns, or obeys another one, isn't kept waiting.
        if self.obeyed_by(address).is_none_or(|key| !lost.contains(&key)) {
            return Ok(None);
        }
        let lost = lost.to_vec();
        self.forget_grant_if(address, move |key| lost.contains(&key)).await
    }

    /// Has a disk obey whoever claims it, with whatever is on it.
    ///
    /// # Errors
    /// [`IoError::Unsupported`] where nothing is exported there that could be owned; others when that can't be written.
    pub async fn forget_grant(&self, address: ShelfSlot) -> Result<(), IoError> {
        self.forget_grant_if(address, |_| true).await.map(drop)
    }

    async fn forget_grant_if(
        &self,
        address: ShelfSlot,
        is_meant: impl FnOnce(PoolKey) -> bool + 'static,
    ) -> Result<Option<PoolKey>, IoError> {
        let found = {
            let exports = self.inner.exports.borrow();
            let found = exports.iter().find(|(_, export)| export.address == address);
            found.map(|(id, export)| (*id, export.device.clone()))
        };
        let Some((id, ExportDevice::Fenced(medium))) = found else {
            return Err(IoError::Unsupported);
        };
        let forgotten = medium.forget_grant(is_meant).await?;
        self.inner.refresh(id).await;
        Ok(forgotten)
    }
}

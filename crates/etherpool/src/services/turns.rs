//! One operation on a volume at a time. Each looks at what else the volume is used for and changes it
//! then: of two that look at the same moment one would mount what the other exports, or make a file
//! system under a client.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use block::VolumeName;
use control::api::{ApiError, ErrorCode};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// How long an operation waits for the one before it: as long as people are told that a mount or unmount
/// may take.
const TURN_LIMIT: Duration = Duration::from_secs(60);

/// The operations that are under way.
#[derive(Default)]
pub struct Turns(Mutex<BTreeMap<String, Arc<AsyncMutex<()>>>>);

/// Held while an operation is under way.
pub type Turn = OwnedMutexGuard<()>;

impl Turns {
    /// Waits until no other operation on the volume is under way.
    pub async fn on(&self, volume: &VolumeName) -> Result<Turn, ApiError> {
        self.take(volume.to_string()).await
    }

    /// The same for two volumes.
    pub async fn on_both(
        &self,
        one: &VolumeName,
        other: &VolumeName,
    ) -> Result<(Turn, Option<Turn>), ApiError> {
        // In one order, or two who want both would wait for each other.
        let first = self.on(one.min(other)).await?;
        let second = if one == other { None } else { Some(self.on(one.max(other)).await?) };
        Ok((first, second))
    }

    /// The same for what concerns all volumes of a pool, or their names. Taken before the turns on volumes, whose
    /// names don't change then.
    pub async fn on_pool(&self, pool: &str) -> Result<Turn, ApiError> {
        self.take(format!("the volumes of pool {pool}")).await
    }

    /// The same for exports of all volumes, which share the addresses of the network.
    pub async fn on_exports(&self) -> Result<Turn, ApiError> {
        self.take("the exports of all volumes".to_owned()).await
    }

    /// The same for the witnesses that the supervisor keeps.
    pub async fn on_witnesses(&self) -> Result<Turn, ApiError> {
        self.take("the supervisor's witnesses".to_owned()).await
    }

    async fn take(&self, what: String) -> Result<Turn, ApiError> {
        let mutex = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever has or waits for a turn holds its mutex.
            all.retain(|_, mutex| Arc::strong_count(mutex) > 1);
            Arc::clone(all.entry(what.clone()).or_default())
        };
        tokio::time::timeout(TURN_LIMIT, mutex.lock_owned()).await.map_err(|_| {
            ApiError::new(ErrorCode::Busy, format!("another operation on {what} is under way"))
                .remedy("see `etherpool status`, then try again")
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn of_two_operations_on_a_volume_the_second_waits_and_not_for_ever() {
        let turns = Turns::default();
        let (one, other) =
            (VolumeName::new("p", "one").unwrap(), VolumeName::new("p", "other").unwrap());
        let first = turns.on(&one).await.unwrap();
        drop(turns.on(&other).await.unwrap());
        drop(turns.on_exports().await.unwrap());
        let error = turns.on(&one).await.unwrap_err();
        assert!(error.code == ErrorCode::Busy && error.message.contains("p/one"), "{error}");
        let soon = async {
            tokio::time::sleep(TURN_LIMIT / 2).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(turns.on(&one), soon);
        assert!(second.is_ok());
        drop(second);
        drop(turns.on(&other).await.unwrap());
        assert_eq!(turns.0.lock().unwrap().len(), 1, "what nobody uses is forgotten");
    }
}

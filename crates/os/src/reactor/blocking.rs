//! Calls that block and that io_uring has no request for: a few at a time, each on a thread of its
//! own. They are rare (opening and discarding disks, files of state, things in other namespaces).
//!
//! A call may hang for good with the disk that it asks. Then it stops to count, so that it holds up
//! nobody but its caller; how many may hang is bounded by the callers, who ask one thing at a time
//! of each disk.

use std::io;
use std::time::Duration;

use futures::channel::oneshot;

use super::ReactorHandle;

/// Enough for system calls; the process locks its memory.
const STACK_BYTES: usize = 128 * 1024;
/// How long a call keeps others waiting.
const PATIENCE: Duration = Duration::from_secs(1);

impl ReactorHandle {
    /// Runs `call` on another thread.
    pub async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let permit = self.blocking.acquire(1).await;
        let (sender, mut receiver) = oneshot::channel();
        std::thread::Builder::new().name("blocking".to_owned()).stack_size(STACK_BYTES).spawn(
            move || {
                // Nobody may be listening any more; the call has been made all the same.
                let _ = sender.send(call());
            },
        )?;
        let in_time = runtime::timeout(&self.runtime, PATIENCE, &mut receiver).await;
        drop(permit);
        let done = match in_time {
            Ok(done) => done,
            Err(_) => receiver.await,
        };
        done.map_err(|_| io::Error::other("a blocking call panicked"))
    }
}

//! Calls that block and that io_uring has no request for: a few at a time, each on a thread of its
//! own. They are rare (discarding on a disk, opening things in other namespaces).

use std::io;

use futures::channel::oneshot;

use super::ReactorHandle;

/// Enough for system calls; the process locks its memory.
const STACK_BYTES: usize = 256 * 1024;

impl ReactorHandle {
    /// Runs `call` on another thread.
    pub async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let _permit = self.blocking.acquire(1).await;
        let (sender, receiver) = oneshot::channel();
        std::thread::Builder::new().name("blocking".to_owned()).stack_size(STACK_BYTES).spawn(
            move || {
                // Nobody may be listening any more; the call has been made all the same.
                let _ = sender.send(call());
            },
        )?;
        receiver.await.map_err(|_| io::Error::other("a blocking call panicked"))
    }
}

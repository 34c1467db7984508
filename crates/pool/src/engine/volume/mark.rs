//! MARKs: what nobody else would say. When no record follows one for a while, a MARK tells an opening how far
//! all is durable, and which INTENTs are complete.

use std::rc::Rc;

use block::BLOCK_BYTES;
use futures::future::{Either, select};

use super::Volume;
use super::log::Append;
use super::segment::Current;
use crate::engine::lease::Ended;
use crate::format::RecordBody;

impl Volume {
    /// Waits for the next record; when none comes for a while, a MARK says how far the log was
    /// acknowledged.
    pub(super) async fn wait_and_mark(
        self: &Rc<Self>,
        arrived: impl Future<Output = ()> + Unpin,
    ) -> Result<(), Ended> {
        if !self.may_mark() {
            return self.pool.unless_over(arrived).await;
        }
        let due = self.log.appended_at.get() + self.pool.limits.mark;
        let timer = self.pool.runtime.sleep_until(due);
        if let Either::Left(_) = self.pool.unless_over(select(arrived, timer)).await? {
            return Ok(());
        }
        let _writing = self.log.writing.acquire(1).await;
        let mut mark = self.may_mark().then(|| vec![Append::own(0, RecordBody::Mark)]);
        self.append_batches(|_, _| mark.take(), |_, _, _| {}).await
    }

    /// Whether a MARK would say something that no record says, and the open segment has room for it. (A
    /// closed one's end is in the metadata.)
    fn may_mark(&self) -> bool {
        let state = self.log.state.borrow();
        let fits = |current: &Current| {
            !current.given_up && current.at + BLOCK_BYTES as u64 <= current.bytes
        };
        let released = self.released();
        let complete = state.intents.complete_through(state.durable);
        (state.content > state.witnessed.max(released) || complete > state.told.max(released))
            && state.current.as_ref().is_some_and(fits)
            && !self.is_current_over()
    }
}

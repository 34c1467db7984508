//! How many of a pool's disks are asked at once, of thousands: as many as can answer through one cable. Answers that come
//! while it is full are dropped and asked for again, and what waits for it does so for longer than a disk may take.

use std::time::Duration;

use futures::future::{Either, select};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, select_biased};
use runtime::Handle;

/// What the cable carries for a disk, while its arm goes from place to place. The numbers are what 1 Gbit/s carries at the
/// pace of hard disks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Load {
    /// Nothing but what is asked and answered: any number at once.
    Commands,
    /// A block.
    Block,
    /// Labels, from both ends of the disk.
    Labels,
    /// All places by which something is recognised.
    Glance,
    /// All that may be recognised, seven times as much.
    Search,
}

/// Whoever hasn't answered by then has nothing on the cable: the next one is asked.
const PROMPT: Duration = Duration::from_secs(1);

impl Load {
    fn at_once(self) -> usize {
        match self {
            Load::Commands => usize::MAX,
            Load::Block => 1024,
            Load::Labels => 256,
            Load::Glance => 128,
            Load::Search => 32,
        }
    }
}

/// Does the same with each of many disks, some at a time. What became of each is told in their order.
pub(super) async fn side_by_side<T>(
    runtime: &Handle,
    load: Load,
    work: impl Iterator<Item = impl Future<Output = T>>,
) -> Vec<T> {
    let mut work = work.enumerate().fuse();
    let (mut prompt, mut slow) = (FuturesUnordered::new(), FuturesUnordered::new());
    let mut done: Vec<(usize, T)> = Vec::new();
    loop {
        while prompt.len() < load.at_once()
            && let Some((index, work)) = work.next()
        {
            let work = Box::pin(work.map(move |result| (index, result)));
            prompt.push(select(work, Box::pin(runtime.sleep(PROMPT))));
        }
        select_biased! {
            answered = prompt.select_next_some() => match answered {
                Either::Left((result, _)) => done.push(result),
                Either::Right(((), work)) => slow.push(work),
            },
            result = slow.select_next_some() => done.push(result),
            complete => break,
        }
    }
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use block::Instant;
    use runtime::{Executor, Order};

    use super::*;

    /// Asks so many disks, each of which takes as long as is said; tells when all had answered, and the most at once.
    fn ask(disks: usize, takes: impl Fn(usize) -> Duration + 'static) -> (Duration, usize) {
        let executor = Executor::new(Instant::default(), 3, Order::Seeded, || {});
        let told = Rc::new(Cell::new(None));
        let (runtime, tells) = (executor.handle(), Rc::clone(&told));
        executor.handle().spawn(async move {
            let (busy, most) = (Cell::new(0), Cell::new(0));
            let work = (0..disks).map(|disk| {
                let (takes, runtime, busy, most) = (takes(disk), &runtime, &busy, &most);
                async move {
                    busy.set(busy.get() + 1);
                    most.set(busy.get().max(most.get()));
                    runtime.sleep(takes).await;
                    busy.set(busy.get() - 1);
                    disk
                }
            });
            let answers = side_by_side(&runtime, Load::Labels, work).await;
            assert!(answers.into_iter().eq(0..disks), "in their order");
            tells.set(Some((runtime.now().since(Instant::default()), most.get())));
        });
        loop {
            executor.run_ready(usize::MAX);
            match (told.get(), executor.next_deadline()) {
                (Some(told), _) => return told,
                (None, Some(next)) => executor.set_now(next),
                (None, None) => panic!("nobody goes on"),
            }
        }
    }

    #[test]
    fn so_many_at_once_and_each_in_the_place_of_whoever_has_answered() {
        let most = Load::Labels.at_once();
        // One in each round takes ten times as long as the others, which don't wait for it.
        let takes = move |disk| Duration::from_millis(if disk % most == 0 { 100 } else { 10 });
        let (took, at_once) = ask(most * 4, takes);
        assert_eq!(at_once, most);
        assert!(took <= Duration::from_millis(150), "{took:?}");
    }

    #[test]
    fn whoever_is_silent_keeps_nobody_waiting() {
        let most = Load::Labels.at_once();
        let takes = move |disk| Duration::from_millis(if disk < most { 10_000 } else { 10 });
        assert_eq!(ask(most * 2, takes), (Duration::from_secs(10), most * 2));
    }
}

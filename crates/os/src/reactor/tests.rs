#![allow(clippy::unwrap_used)]

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use block::{Buffer, BufferMut};
use futures::FutureExt;

use super::requests::Part;
use super::*;

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK | rustix::pipe::PipeFlags::CLOEXEC)
        .unwrap()
}

#[test]
fn timers_fire_in_order_of_time() {
    let (mut reactor, handle) = Reactor::new().unwrap();
    let seen = Rc::new(RefCell::new(Vec::new()));
    for millis in [3u64, 1, 2] {
        let (runtime, seen) = (handle.runtime().clone(), Rc::clone(&seen));
        handle.runtime().spawn(async move {
            runtime.sleep(Duration::from_millis(millis)).await;
            seen.borrow_mut().push(millis);
        });
    }
    let runtime = handle.runtime().clone();
    reactor.run_until(async move { runtime.sleep(Duration::from_millis(20)).await }).unwrap();
    assert_eq!(*seen.borrow(), [1, 2, 3]);
}

#[test]
fn other_threads_rouse_it() {
    let (mut reactor, _) = Reactor::new().unwrap();
    let (sender, mut letters) = mailbox::<u32>(4);
    let thread = std::thread::spawn(move || {
        for letter in 0..1000 {
            let mut letter = letter;
            while let Err(SendError::Full(back)) = sender.send(letter) {
                letter = back;
                std::thread::yield_now();
            }
        }
    });
    let sum = reactor
        .run_until(async move {
            let mut sum = 0u64;
            while let Some(letter) = letters.receive().await {
                sum += u64::from(letter);
            }
            sum
        })
        .unwrap();
    thread.join().unwrap();
    assert_eq!(sum, 499_500);
}

#[test]
fn a_full_mailbox_refuses_and_a_closed_one_says_so() {
    let (sender, letters) = mailbox(1);
    assert_eq!(sender.send(1), Ok(()));
    assert_eq!(sender.send(2), Err(SendError::Full(2)));
    drop(letters);
    assert_eq!(sender.send(3), Err(SendError::Closed(3)));
}

#[test]
fn a_dropped_listener_leaves_its_poll_to_the_next() {
    let (mut reactor, handle) = Reactor::new().unwrap();
    let (reader, writer) = pipe();
    let watch = handle.watch(reader);
    let shared = Rc::clone(&handle.shared);
    reactor
        .run_until(async move {
            for _ in 0..100 {
                let mut listening = Box::pin(watch.readable());
                assert!(futures::poll!(listening.as_mut()).is_pending());
            }
            assert_eq!(shared.ops.borrow().in_flight(), 1);
            rustix::io::write(&writer, b"x").unwrap();
            watch.readable().await;
            assert_eq!(rustix::io::read(watch.fd(), &mut [0; 8]).unwrap(), 1);
            // A watch that goes away takes its poll back.
            let mut listening = Box::pin(watch.readable());
            assert!(futures::poll!(listening.as_mut()).is_pending());
        })
        .unwrap();
    drop(reactor);
    assert_eq!(handle.shared.ops.borrow().in_flight(), 0);
}

#[test]
fn operations_outlive_their_futures_and_the_end_waits_for_them() {
    let file = tempfile::tempfile().unwrap();
    let fd: Rc<OwnedFd> = Rc::new(file.as_fd().try_clone_to_owned().unwrap());
    let (mut reactor, handle) = Reactor::new().unwrap();
    let data = Buffer::copy_of(&[0x5a; 1 << 20]);
    let inner = handle.clone();
    let held = Rc::clone(&fd);
    reactor
        .run_until(async move {
            for index in 0..300u64 {
                let part = Part { start: 0, offset_bytes: index << 12 };
                // More than the submission queue holds, all dropped at once.
                drop(inner.write_at(Rc::clone(&held), data.slice(0, 4096), part, 0));
            }
        })
        .unwrap();
    drop(reactor);
    assert_eq!(handle.shared.ops.borrow().in_flight(), 0);
    assert_eq!(rustix::fs::fstat(&fd).unwrap().st_size, 300 << 12);
    // After the end requests fail instead of waiting for ever.
    let part = Part { start: 0, offset_bytes: 0 };
    let (result, _) = handle.read_at(fd, BufferMut::zeroed(512), part).now_or_never().unwrap();
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
}

#[test]
fn blocking_calls_run_elsewhere() {
    let (mut reactor, handle) = Reactor::new().unwrap();
    let here = std::thread::current().id();
    let there =
        reactor.run_until(async move { handle.blocking(|| std::thread::current().id()).await });
    assert_ne!(there.unwrap().unwrap(), here);
}

#[test]
fn an_idle_reactor_sleeps() {
    let (mut reactor, handle) = Reactor::new().unwrap();
    let runtime = handle.runtime().clone();
    let turns = Rc::new(Cell::new(0u32));
    let counter = Rc::clone(&turns);
    handle.runtime().spawn(std::future::poll_fn(move |_| {
        counter.set(counter.get() + 1);
        Poll::<()>::Pending
    }));
    let before = cpu_nanos();
    reactor.run_until(async move { runtime.sleep(Duration::from_millis(300)).await }).unwrap();
    assert_eq!(turns.get(), 1, "a waiting task must not be polled again");
    let used = cpu_nanos() - before;
    assert!(used < 30_000_000, "{used} ns of CPU in 300 ms of idling");
}

fn cpu_nanos() -> i64 {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    used.tv_sec * 1_000_000_000 + used.tv_nsec
}

/// Who is called at the end of a request finds the time as it is, not as it was before the
/// reactor slept.
#[test]
fn a_call_at_the_end_of_a_request_sees_the_present() {
    use std::io::Write;
    let (mut reactor, handle) = Reactor::new().unwrap();
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        theirs.write_all(&[1; 8]).unwrap();
    });
    let late = reactor
        .run_until(async move {
            let (sender, receiver) = futures::channel::oneshot::channel();
            let runtime = handle.runtime().clone();
            let fd = Rc::new(OwnedFd::from(ours));
            handle.read_call(fd, block::BufferMut::zeroed(8), 0, move |result, _| {
                assert_eq!(result.unwrap(), 8);
                let _ = sender.send(boot_time().since(runtime.now()));
            });
            receiver.await.unwrap()
        })
        .unwrap();
    writer.join().unwrap();
    assert!(late < Duration::from_millis(20), "the clock stood {late:?} behind");
}

struct Ends(Cell<usize>);

impl FuseServer for Ends {
    fn serve(&self, _: FuseRequest) {
        panic!("a request of whom?");
    }

    fn end(&self) {
        self.0.set(self.0.get() + 1);
    }
}

/// A queue that the kernel doesn't accept would let its requests wait for ever.
#[test]
fn refused_commands_end_the_connection_and_free_their_memory() {
    let (mut reactor, handle) = Reactor::new().unwrap();
    let queues = match handle.fuse_queues(1 << 20) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return,
        queues => queues.unwrap(),
    };
    let server = Rc::new(Ends(Cell::new(0)));
    // No such descriptor knows of FUSE's commands.
    queues.serve(Arc::new(sys::event_fd().unwrap()), Rc::clone(&server) as Rc<dyn FuseServer>);
    let (shared, runtime) = (Rc::clone(&handle.shared), handle.runtime().clone());
    assert!(shared.ops.borrow().in_flight() > 0);
    reactor
        .run_until(async move {
            while shared.ops.borrow().in_flight() > 0 {
                runtime.sleep(Duration::from_millis(1)).await;
            }
        })
        .unwrap();
    assert!(server.0.get() > 0);
    assert_eq!(Rc::strong_count(&server), 1);
}

/// The reactor's end ends connections first: their commands can't be taken back.
#[test]
fn the_end_tells_those_who_serve() {
    let (reactor, handle) = Reactor::new().unwrap();
    let queues = match handle.fuse_queues(4096) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return,
        queues => queues.unwrap(),
    };
    let server = Rc::new(Ends(Cell::new(0)));
    queues.serve(Arc::new(sys::event_fd().unwrap()), Rc::clone(&server) as Rc<dyn FuseServer>);
    drop(reactor);
    assert!(server.0.get() > 0);
    assert_eq!((Rc::strong_count(&server), handle.shared.ops.borrow().in_flight()), (1, 0));
}

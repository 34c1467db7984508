//! A volume in memory behind FUSE and a loop device, for the tests that need a real kernel. Its requests
//! come by a thread, or by a ring where `FUSE_OVER_RING` says so (scripts/fuse-over-ring runs the tests
//! that way).

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::cell::RefCell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use block::{Buffer, IoError, SectorRange};
use block::{FsType, VolumeName};
use frontend::attach::{self, Detach, Places};
use frontend::filesystem::PlaceRules;
use frontend::fuse::{
    Answer, Finish, Options, Reply, RingSide, Switch, TRANSFER_BYTES_MAX, VolumeFile,
    VolumeRequest, switch,
};
use os::reactor::{MailSender, Mailbox, mailbox};
use os::{Reactor, ReactorHandle};

/// Whether this machine lets us; says so loudly when not.
pub fn possible(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    let missing = if !root {
        "root"
    } else if std::fs::File::options().read(true).write(true).open("/dev/fuse").is_err() {
        "/dev/fuse"
    } else if std::fs::File::options().read(true).write(true).open("/dev/loop-control").is_err() {
        "/dev/loop-control"
    } else {
        return true;
    };
    shout(&format!("{test}: needs {missing}, which is not here"));
    false
}

/// Whether the kernel has a driver for a file system, or gets one; says so loudly when not.
pub fn has_driver(test: &str, fstype: FsType) -> bool {
    let known = || {
        let list = std::fs::read_to_string("/proc/filesystems").unwrap();
        list.lines().any(|line| line.split_whitespace().last() == Some(fstype.name()))
    };
    let loaded = || Command::new("modprobe").arg(fstype.name()).status().is_ok_and(|s| s.success());
    let found = known() || (loaded() && known());
    if !found {
        shout(&format!("{test}: needs a kernel with {fstype}, which this is not"));
    }
    found
}

/// Whether requests are to come by a ring.
pub fn over_ring() -> bool {
    let wanted = std::env::var_os("FUSE_OVER_RING").is_some();
    assert!(
        !wanted || switch() == Switch::On,
        "FUSE_OVER_RING, but the kernel has it not switched on"
    );
    wanted
}

/// Tells what was skipped, past the capture of the test harness.
pub fn shout(what: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}");
}

/// What the volume saw and is told to do.
#[derive(Default)]
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default, Clone, Copy, Debug)]
pub struct State {
    pub reads: u64,
    pub writes: u64,
    pub zeroed_sectors: u64,
    /// Writes are neither done nor answered while set.
    pub hold_writes: bool,
    /// Writes that wait.
    pub held: u64,
    /// Writes fail while set.
    pub fail_writes: bool,
}

impl Control {
    pub fn get(&self) -> State {
        *self.state.lock().unwrap()
    }

    pub fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    /// Waits until the state is so; fails after a long time.
    pub fn wait_for(&self, what: &str, condition: impl Fn(&State) -> bool) {
        let state = self.state.lock().unwrap();
        let waited = self
            .changed
            .wait_timeout_while(state, Duration::from_secs(60), |state| !condition(state))
            .unwrap();
        assert!(!waited.1.timed_out(), "waited in vain for {what}");
    }
}

enum Message {
    Request(VolumeRequest, Reply),
    Ring(RingSide),
    Resize(usize),
    Die,
}

/// A volume, attached. Dropping it takes everything away.
pub struct TestVolume {
    pub root: tempfile::TempDir,
    pub places: Places,
    pub name: VolumeName,
    pub device: PathBuf,
    pub control: Arc<Control>,
    engine: MailSender<Message>,
    thread: Option<JoinHandle<()>>,
    pub file: Option<VolumeFile>,
}

impl TestVolume {
    pub fn new(sectors: usize) -> TestVolume {
        let root = tempfile::tempdir().unwrap();
        let places = Places { run: root.path().join("run"), links: root.path().join("dev") };
        let name: VolumeName = "pool/vol".parse().unwrap();
        let control = Arc::new(Control::default());
        let (engine, requests) = mailbox(1024);
        let seen = Arc::clone(&control);
        let thread = std::thread::spawn(move || serve(requests, vec![0; sectors * 512], seen));
        let connection = attach::mount(&places, &name).unwrap();
        let to_engine = engine.clone();
        let options = Options {
            sectors: sectors as u64,
            read_only: false,
            over_ring: over_ring(),
            on_end: Box::new(|| {}),
        };
        let (file, ring) = VolumeFile::serve(connection, options, move |request, reply| {
            // A dead engine drops the message and with it the reply.
            let _ = to_engine.send(Message::Request(request, reply));
        })
        .unwrap();
        assert_eq!(ring.is_some(), over_ring());
        if let Some(ring) = ring {
            assert!(engine.send(Message::Ring(ring)).is_ok());
        }
        let device = attach::attach(&places, &name, false).unwrap();
        assert_eq!(file.is_over_ring(), over_ring());
        TestVolume {
            root,
            places,
            name,
            device,
            control,
            engine,
            thread: Some(thread),
            file: Some(file),
        }
    }

    pub fn resize(&self, sectors: usize) {
        assert!(self.engine.send(Message::Resize(sectors)).is_ok());
        self.file.as_ref().unwrap().set_sectors(sectors as u64);
        assert_eq!(attach::resize(&self.places, &self.name).unwrap(), sectors as u64 * 512);
    }

    /// The engine's thread ends with everything that it has in hand.
    pub fn kill_engine(&mut self) {
        let _ = self.engine.send(Message::Die);
        self.thread.take().unwrap().join().unwrap();
    }

    pub fn mount_point(&self) -> PathBuf {
        self.root.path().join("mnt")
    }

    /// A directory of the test's own, for a mount that lasts a moment.
    pub fn scratch(&self) -> PathBuf {
        self.root.path().join("scratch")
    }

    pub fn place_rules(&self) -> PlaceRules {
        PlaceRules { roots: vec![self.root.path().to_owned()], ..PlaceRules::default() }
    }

    pub fn detach(&mut self, how: Detach) {
        attach::detach(&self.places, &self.name, how).unwrap();
        assert_eq!(attach::list(&self.places).unwrap(), []);
        self.file = None;
    }
}

impl Drop for TestVolume {
    fn drop(&mut self) {
        // Only what a failed test left: errors would hide its own.
        for target in [self.mount_point(), self.scratch()] {
            let target = target.canonicalize().unwrap_or(target);
            let how = rustix::mount::UnmountFlags::DETACH;
            while rustix::mount::unmount(&target, how).is_ok() {}
        }
        self.control.change(|state| state.hold_writes = false);
        self.file = None;
        let _ = attach::detach(&self.places, &self.name, Detach::Abort);
        let _ = self.engine.send(Message::Die);
    }
}

/// How often the engine looks at what it is told to do.
const LOOK: Duration = Duration::from_millis(20);

/// The way back, whichever the request came by.
type Respond = Box<dyn FnOnce(Answer)>;

struct Engine {
    bytes: Vec<u8>,
    held: Vec<(VolumeRequest, Respond)>,
    control: Arc<Control>,
}

fn serve(requests: Mailbox<Message>, bytes: Vec<u8>, control: Arc<Control>) {
    let (mut reactor, handle) = Reactor::new().unwrap();
    let engine = Rc::new(RefCell::new(Engine { bytes, held: Vec::new(), control }));
    let looker = (Rc::clone(&engine), handle.runtime().clone());
    handle.runtime().spawn(async move {
        loop {
            looker.1.sleep(LOOK).await;
            looker.0.borrow_mut().look();
        }
    });
    reactor.run_until(receive(handle, requests, Rc::clone(&engine))).unwrap();
    // What is held has the ring's slots, which have this.
    let held = std::mem::take(&mut engine.borrow_mut().held);
    drop(reactor);
    drop(held);
}

async fn receive(
    handle: ReactorHandle,
    mut requests: Mailbox<Message>,
    engine: Rc<RefCell<Engine>>,
) {
    while let Some(message) = requests.receive().await {
        match message {
            Message::Request(request, reply) => engine.borrow_mut().take(request, reply),
            Message::Ring(ring) => {
                let queues = handle.fuse_queues(TRANSFER_BYTES_MAX).unwrap();
                let engine = Rc::clone(&engine);
                let take = move |request, reply| engine.borrow_mut().take(request, reply);
                handle.runtime().spawn(ring.serve(queues, take));
            }
            Message::Resize(sectors) => engine.borrow_mut().bytes.resize(sectors * 512, 0),
            Message::Die => return,
        }
    }
}

impl Engine {
    fn take<P: Finish + 'static>(&mut self, request: VolumeRequest, reply: Reply<P>) {
        if let VolumeRequest::Write { .. } = request {
            self.held.push((request, Box::new(move |answer| reply.answer(answer))));
            return self.look();
        }
        reply.answer(execute(request, &mut self.bytes, &self.control));
    }

    fn look(&mut self) {
        if !self.control.get().hold_writes {
            for (request, answer) in self.held.drain(..) {
                answer(execute(request, &mut self.bytes, &self.control));
            }
        }
        let waiting = self.held.len() as u64;
        if self.control.get().held != waiting {
            self.control.change(|state| state.held = waiting);
        }
    }
}

fn execute(request: VolumeRequest, bytes: &mut [u8], control: &Control) -> Result<Buffer, IoError> {
    let window = |range: SectorRange| {
        let start = range.start.byte_offset() as usize;
        start..start + range.len_bytes() as usize
    };
    match request {
        VolumeRequest::Read(range) => {
            control.change(|state| state.reads += 1);
            bytes.get(window(range)).map(Buffer::copy_of).ok_or(IoError::OutOfRange(range))
        }
        VolumeRequest::Write { start, data } => {
            control.change(|state| state.writes += 1);
            assert!(data.is_aligned_to(4096));
            let range = SectorRange::new(start, data.len() as u64 / 512);
            if control.get().fail_writes {
                return Err(IoError::Medium(range));
            }
            let target = bytes.get_mut(window(range)).ok_or(IoError::OutOfRange(range))?;
            target.copy_from_slice(&data);
            Ok(Buffer::empty())
        }
        VolumeRequest::Zero { range, .. } => {
            control.change(|state| state.zeroed_sectors += range.count);
            bytes.get_mut(window(range)).ok_or(IoError::OutOfRange(range))?.fill(0);
            Ok(Buffer::empty())
        }
    }
}

/// Looks until it is so; for what the kernel doesn't tell.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The contents of a file that was just written, not from the cache of whoever wrote it.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

pub fn mounted_below(directory: &Path) -> bool {
    let directory = directory.canonicalize().unwrap();
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.contains(directory.to_str().unwrap())
}

//! Volumes served to this machine's kernel through FUSE descriptors that services hand over.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use block::VolumeName;
use block::{BlockDevice, IoError};
use control::api::{ApiError, ErrorCode};
use control::reconcile::{AttachedVolume, Attachment, Attachments, EngineInstance};
use frontend::fuse::{
    Connection, Finish, Options, Reply, TRANSFER_BYTES_MAX, VolumeFile, VolumeRequest, perform,
};
use os::ReactorHandle;
use os::reactor::{MailSender, Mailbox, SendError, mailbox};

/// Requests on their way from the serving thread; more than the server lets in at once.
const REQUESTS_MAX: usize = 256;
/// Ends of servers that wait to be noticed.
const ENDS_MAX: usize = 1024;

/// All volumes that are served.
pub struct Volumes {
    handle: ReactorHandle,
    served: RefCell<BTreeMap<VolumeName, Served>>,
    ends: MailSender<(VolumeName, u64)>,
    instance: EngineInstance,
    next_number: Cell<u64>,
}

struct Served {
    file: VolumeFile,
    device: Rc<dyn BlockDevice>,
    number: u64,
    /// Requests that were answered with an error.
    errors: Rc<Cell<u64>>,
}

impl Volumes {
    /// None yet, of this engine.
    pub fn new(handle: ReactorHandle, instance: EngineInstance) -> Rc<Volumes> {
        let (ends, ended) = mailbox(ENDS_MAX);
        let runtime = handle.runtime().clone();
        let volumes = Rc::new(Volumes {
            handle,
            served: RefCell::default(),
            ends,
            instance,
            next_number: Cell::new(1),
        });
        runtime.spawn(notice_ends(Rc::clone(&volumes), ended));
        volumes
    }

    /// Serves a volume through a connection, instead of one that served it before.
    pub fn attach(
        &self,
        name: &VolumeName,
        device: Rc<dyn BlockDevice>,
        connection: Connection,
    ) -> Result<Attachment, ApiError> {
        self.drop_one(name);
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let (ends, ended) = (self.ends.clone(), (name.clone(), number));
        // A full mailbox only delays the tidying: a new attachment replaces the old one.
        let on_end = move || drop(ends.send(ended));
        let served = serve_device(&self.handle, &device, connection, on_end);
        let (file, errors) = served.map_err(|error| {
            ApiError::new(ErrorCode::Io, format!("{name} can't be served to the kernel: {error}"))
        })?;
        self.served.borrow_mut().insert(name.clone(), Served { file, device, number, errors });
        Ok(Attachment { engine: self.instance, number })
    }

    /// What is served.
    pub fn attachments(&self) -> Attachments {
        let served = self.served.borrow();
        let alive = served.iter().filter(|(_, one)| one.file.is_served());
        Attachments {
            engine: self.instance,
            next: self.next_number.get(),
            served: alive
                .map(|(name, one)| AttachedVolume {
                    volume: name.clone(),
                    number: one.number,
                    errors: one.errors.get(),
                })
                .collect(),
        }
    }

    /// Whether a volume is served through that attachment.
    pub fn serves(&self, name: &VolumeName, attachment: Attachment) -> bool {
        attachment.engine == self.instance
            && self
                .served
                .borrow()
                .get(name)
                .is_some_and(|one| one.number == attachment.number && one.file.is_served())
    }

    /// Shows a volume's present size.
    pub fn refresh(&self, name: &VolumeName) {
        if let Some(one) = self.served.borrow().get(name) {
            one.file.set_sectors(one.device.geometry().sectors);
        }
    }

    /// Ends all others: their requests fail.
    pub fn keep_only(&self, mut keep: impl FnMut(&VolumeName) -> bool) {
        let gone: Vec<VolumeName> =
            self.served.borrow().keys().filter(|name| !keep(name)).cloned().collect();
        for name in gone {
            tracing::warn!(volume = %name, "its local device is aborted: the volume can't be served now");
            self.drop_one(&name);
        }
    }

    /// Ends all.
    pub fn drop_all(&self) {
        let all = std::mem::take(&mut *self.served.borrow_mut());
        drop(all);
    }

    fn drop_one(&self, name: &VolumeName) {
        // Out of the table first: the drop waits for the serving thread.
        let one = self.served.borrow_mut().remove(name);
        drop(one);
    }
}

/// Serves a device to the kernel through a connection. Beside the file: how many requests were answered
/// with an error.
pub fn serve_device(
    handle: &ReactorHandle,
    device: &Rc<dyn BlockDevice>,
    connection: Connection,
    on_end: impl FnOnce() + Send + 'static,
) -> io::Result<(VolumeFile, Rc<Cell<u64>>)> {
    let (requests, receiver) = mailbox(REQUESTS_MAX);
    let queues = connection.abort.is_some().then(|| handle.fuse_queues(TRANSFER_BYTES_MAX));
    let queues = queues.and_then(|queues| {
        let told = |error: &io::Error| {
            tracing::warn!(%error, "a device is served by a thread, not by io_uring");
        };
        queues.inspect_err(told).ok()
    });
    let options = Options {
        sectors: device.geometry().sectors,
        read_only: device.geometry().read_only,
        over_ring: queues.is_some(),
        on_end: Box::new(on_end),
    };
    let hand_on = move |request: VolumeRequest, reply: Reply| {
        if let Err(SendError::Full((_, reply)) | SendError::Closed((_, reply))) =
            requests.send((request, reply))
        {
            reply.answer(Err(IoError::Lost));
        }
    };
    let (file, ring) = VolumeFile::serve(connection, options, hand_on)?;
    let performer =
        Performer { handle: handle.clone(), device: Rc::clone(device), errors: Rc::default() };
    let errors = Rc::clone(&performer.errors);
    if let Some((ring, queues)) = ring.zip(queues) {
        let performer = performer.clone();
        let by_ring = ring.serve(queues, move |request, reply| performer.perform(request, reply));
        handle.runtime().spawn(by_ring);
    }
    handle.runtime().spawn(performer.perform_all(receiver));
    Ok((file, errors))
}

/// Does what the kernel asks of a device.
#[derive(Clone)]
struct Performer {
    handle: ReactorHandle,
    device: Rc<dyn BlockDevice>,
    errors: Rc<Cell<u64>>,
}

impl Performer {
    async fn perform_all(self, mut requests: Mailbox<(VolumeRequest, Reply)>) {
        while let Some((request, reply)) = requests.receive().await {
            self.perform(request, reply);
        }
    }

    fn perform<P: Finish + 'static>(&self, request: VolumeRequest, reply: Reply<P>) {
        // Queued on the device here, in order; only the answer is waited for elsewhere.
        let answer = perform(&self.device, request);
        let errors = Rc::clone(&self.errors);
        self.handle.runtime().spawn(async move {
            let answer = answer.await;
            if answer.is_err() {
                errors.set(errors.get().saturating_add(1));
            }
            reply.answer(answer);
        });
    }
}

async fn notice_ends(volumes: Rc<Volumes>, mut ended: Mailbox<(VolumeName, u64)>) {
    while let Some((name, number)) = ended.receive().await {
        let is_present = volumes.served.borrow().get(&name).is_some_and(|one| one.number == number);
        if is_present {
            volumes.drop_one(&name);
        }
    }
}

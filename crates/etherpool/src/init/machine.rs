//! A node's life: one loop that does what is due, and waits for what comes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use aoe_wire::MacAddr;
use block::Instant;
use boot::node::{Answer, Identity, Slots, State, names_a_machine};
use os::boot_time;
use os::machine::{End, reap};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use uuid::Uuid;

use super::button::Buttons;
use super::hello::{self, Condition, Disks, Pauses};
use super::identity::{self, Heard};
use super::log::{self, Collector};
use super::memory::Memory;
use super::network::{Found, Network};
use super::node::{self, News, NodeProcess};
use super::options::{Boot, Options, Syslog};
use super::patience::Patience;
use super::plan::{Machine, Plan, Said};
use super::tpm::Tpm;
use super::watchdog::{self, Watchdog};
use super::{AT_REST, READY, drivers, start};
use crate::keys;

/// How often it looks at what nobody tells it of: slots that were given, processes that hang.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after it serves its memory is told: then all is where it stays.
const AT_REST_AFTER: Duration = Duration::from_secs(10);
/// How long the node has to end with the machine. Somewhat longer than it takes for its disks.
const END_WITHIN: Duration = Duration::from_secs(60);
/// How long those have that its commands left.
const STRANGERS_END_WITHIN: Duration = Duration::from_secs(2);
/// How long that may take which waits for being written: a disk that hangs doesn't keep the machine from its end.
const WRITTEN_WITHIN: Duration = Duration::from_secs(60);
/// How long a machine without its drivers shows why, before it starts anew.
const NO_DRIVERS_PAUSE: Duration = Duration::from_secs(30);
/// How long nobody may say which interfaces there are.
const NO_INTERFACES_MAX: Duration = Duration::from_secs(300);
/// How often is looked whether they have.
const END_LOOK_EVERY: Duration = Duration::from_millis(20);
/// For the console to take the last lines.
const LAST_LINES: Duration = Duration::from_millis(300);
/// What a machine says of its uuid.
const UUID_FILE: &str = "/sys/class/dmi/id/product_uuid";

/// What comes from threads and tasks of this process.
enum Event {
    /// All that was there at the beginning has its drivers.
    Settled,
    /// There are none for this kernel.
    NoDrivers(String),
    /// A device came or went.
    DevicesChanged,
    /// A disk came.
    DiskCame,
    /// Which interfaces there are.
    Interfaces(Found),
    /// An interface has got an address, or has it again; with whom its server says that the machine was booted by.
    HasAddress(Option<Ipv4Addr>),
    /// The power button.
    Pressed,
    /// How the key that this node made itself is kept.
    Kept(Identity),
    /// What came of a hello.
    Answered(anyhow::Result<Heard>),
}

/// Lives until it is told how the machine is to end.
pub fn live() -> anyhow::Result<End> {
    start::prepare().context("the kernel's file systems")?;
    let collector = log::begin().context("the console")?;
    crate::logging::start("info");
    start::set_kernel();
    let command_line = std::fs::read_to_string("/proc/cmdline").context("/proc/cmdline")?;
    let options = Options::parse(&command_line);
    let (version, kernel) = (env!("CARGO_PKG_VERSION"), os::machine::kernel_release());
    tracing::info!(version, kernel, "a node of etherpool begins");
    for word in &options.wrong {
        tracing::warn!("{word} of the kernel's command line isn't understood, and does nothing");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot wait for anything")?;
    let how = runtime.block_on(async { Life::begin(options, collector)?.run().await });
    // What hangs at a disk isn't waited for.
    runtime.shutdown_background();
    crate::logging::finish();
    std::thread::sleep(LAST_LINES);
    how
}

struct Life {
    options: Options,
    collector: Collector,
    events: UnboundedReceiver<Event>,
    teller: UnboundedSender<Event>,
    network: Network,
    machine: Machine,
    tpm: Tpm,
    /// Whether it has been asked to keep the key.
    is_tpm_asked: bool,
    node: NodeProcess,
    buttons: Buttons,
    watchdog: Option<Watchdog>,
    pet_at: Instant,
    look_at: Instant,
    patience: Patience,
    /// All has its drivers once the network has answered that question.
    settles: Option<u64>,
    /// When it was last said which interfaces there are.
    looked_at: Instant,
    /// When it ends for want of drivers.
    ends_at: Option<Instant>,
    /// What is to be done; none as long as it waits for who says so.
    plan: Option<Plan>,
    /// What the boot server said last, and all that holds of what it said.
    answer: Option<Answer>,
    said: Said,
    disks: Disks,
    /// Which slots the node had given when it said hello last.
    slots: Slots,
    server: Option<SocketAddr>,
    pauses: Pauses,
    /// When to say hello; none while it is being said.
    hello_at: Option<Instant>,
    /// Why the last hello failed, if it did: said once.
    unheard: Option<String>,
    /// Why the node ended last.
    failed: Option<String>,
    rest_at: Option<Instant>,
}

/// What ends a node from outside.
struct Signals {
    child: Signal,
    restart: [Signal; 2],
    off: [Signal; 2],
}

impl Signals {
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            child: signal(SignalKind::child())?,
            // Ctrl-Alt-Del is the second.
            restart: [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?],
            // As busybox has it, and as the kernel tells that power fails.
            off: [
                signal(SignalKind::user_defined2())?,
                signal(SignalKind::from_raw(libc::SIGPWR))?,
            ],
        })
    }
}

impl Life {
    fn begin(options: Options, collector: Collector) -> anyhow::Result<Life> {
        let (teller, events) = unbounded_channel();
        let server = match options.boot {
            Boot::At(server) => Some(server),
            Boot::Found | Boot::None => None,
        };
        let told = teller.clone();
        let found = teller.clone();
        let network = Network::follow(
            options.mtu_bytes,
            // Who listens is gone with the machine, here and below.
            Arc::new(move |boot| drop(told.send(Event::HasAddress(boot)))),
            move |interfaces| drop(found.send(Event::Interfaces(interfaces))),
        )
        .context("the network")?;
        let uuid = std::fs::read_to_string(UUID_FILE).unwrap_or_default();
        let uuid = Uuid::try_parse(uuid.trim()).ok().filter(names_a_machine);
        let now = boot_time();
        Ok(Life {
            machine: Machine {
                uuid,
                mac: options.booted_by.unwrap_or(MacAddr([0; 6])),
                macs: Vec::new(),
                key: keys::fresh()?,
                shown: None,
            },
            tpm: Tpm::new(),
            is_tpm_asked: false,
            node: NodeProcess::new()?,
            options,
            collector,
            events,
            teller,
            network,
            buttons: Buttons::default(),
            watchdog: None,
            pet_at: now,
            look_at: now,
            patience: Patience::new(now),
            settles: None,
            looked_at: now,
            ends_at: None,
            plan: None,
            answer: None,
            said: Said::default(),
            disks: Disks::new(),
            slots: Slots::new(),
            server,
            pauses: Pauses::default(),
            hello_at: Some(now),
            unheard: None,
            failed: None,
            rest_at: None,
        })
    }

    async fn run(mut self) -> anyhow::Result<End> {
        let mut signals = Signals::listen().context("signals")?;
        let told = self.teller.clone();
        let tell = move |news| {
            let event = match news {
                drivers::News::Settled => Event::Settled,
                drivers::News::None(why) => Event::NoDrivers(why),
                drivers::News::Changed => Event::DevicesChanged,
                drivers::News::DiskCame => Event::DiskCame,
            };
            let _ = told.send(event);
        };
        drivers::follow(tell).context("drivers")?;
        self.collect();
        let how = loop {
            if let Some(how) = self.do_what_is_due() {
                break how;
            }
            let [restart, interrupt] = &mut signals.restart;
            let [off, power] = &mut signals.off;
            tokio::select! {
                Some(event) = self.events.recv() => {
                    if let Some(how) = self.take(event) {
                        break how;
                    }
                }
                said = self.node.listen() => {
                    if let Ok(said) = said {
                        self.node.heard(boot_time(), &said);
                    }
                }
                _ = signals.child.recv() => {}
                _ = restart.recv() => break End::Restart,
                _ = interrupt.recv() => break End::Restart,
                _ = off.recv() => break End::PowerOff,
                _ = power.recv() => break End::PowerOff,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        };
        self.end(how);
        Ok(how)
    }

    fn take(&mut self, event: Event) -> Option<End> {
        match event {
            // Which interfaces there are by now decides who this machine is.
            Event::Settled => self.settles = Some(self.network.look()),
            Event::NoDrivers(why) => {
                let seconds = NO_DRIVERS_PAUSE.as_secs();
                tracing::error!(
                    "kernel and initramfs don't belong together, and the machine starts anew in {seconds} s: {why}"
                );
                self.ends_at = Some(boot_time() + NO_DRIVERS_PAUSE);
            }
            Event::DevicesChanged => {
                self.network.look();
                self.look_at = boot_time();
            }
            Event::Interfaces(Found { macs, asked }) => {
                self.looked_at = boot_time();
                if self.settles.is_some_and(|settles| asked >= settles) {
                    self.patience.settled(self.looked_at);
                }
                self.machine.macs = macs;
                if self.plan.is_none() && self.answer.is_none() {
                    // Not another one later: its name and identity may follow from it.
                    let first = self.machine.macs.first().copied();
                    let own = self.options.booted_by.or(first);
                    self.machine.mac = own.unwrap_or(self.machine.mac);
                }
            }
            Event::DiskCame => self.node.disk_came(boot_time()),
            Event::Pressed => {
                tracing::info!("the power button was pressed");
                return Some(End::PowerOff);
            }
            Event::HasAddress(boot) => {
                let found = boot.map(Options::found);
                let is_accepted = self.said.is_accepted();
                if let Some(found) =
                    found.filter(|found| self.options.may_follow(self.server, *found, is_accepted))
                {
                    tracing::info!(server = %found, "the DHCP server names a boot server");
                    self.server = Some(found);
                    self.collect();
                }
                self.patience.addressed(boot_time());
                // Who wasn't to be reached without an address may be now.
                if self.answer.is_none() {
                    self.pauses = Pauses::default();
                    self.hello_at = self.hello_at.map(|_| boot_time());
                }
            }
            Event::Kept(identity) => self.machine.shown = Some(identity),
            Event::Answered(answered) => self.hear(answered),
        }
        None
    }

    /// Says how the machine is to end, if it is.
    fn do_what_is_due(&mut self) -> Option<End> {
        self.reap();
        let now = boot_time();
        if now >= self.look_at {
            self.look_at = now + LOOK_EVERY;
            // Nobody else remembers new ones if the power goes now.
            if self.hello_at.is_some() && self.slots != node::slots() {
                self.hello_at = Some(now);
            }
            let told = self.teller.clone();
            self.buttons.look(move || drop(told.send(Event::Pressed)));
        }
        if now >= self.pet_at {
            self.pet_at = now + watchdog::EVERY;
            self.pet();
        }
        if self.plan.is_none() && self.may_plan(now) {
            self.follow_answer();
        }
        // It begins without them for nobody, and goes on without them once it has begun.
        if self.plan.is_none() && now >= self.looked_at + NO_INTERFACES_MAX {
            tracing::error!(
                "the kernel doesn't say which interfaces there are: a driver hangs, and the machine starts anew"
            );
            return Some(End::Restart);
        }
        self.node.tick(now);
        while let Some(news) = self.node.next_news() {
            match news {
                News::Ready => {
                    self.failed = None;
                    let after = format!("{:.1}", now.as_nanos() as f64 / 1e9);
                    tracing::info!("{READY} after {after} s: {}", self.node.status());
                    self.rest_at = Some(now + AT_REST_AFTER);
                    // Whoever waits for it needn't wait for the next time.
                    self.hello_at = self.hello_at.map(|_| now);
                }
                News::Failed(why) => self.failed = Some(why),
                News::Stuck => return Some(End::Restart),
            }
        }
        if self.rest_at.is_some_and(|at| now >= at) {
            self.rest_at = None;
            if let Some(memory) = Memory::now() {
                tracing::info!("{AT_REST} {memory}; {}", self.node.status());
            }
        }
        if self.patience.has_drivers(now) && !self.is_tpm_asked {
            self.is_tpm_asked = true;
            self.have_key_kept();
        }
        // Not before it is known how its key is kept: what may be sealed isn't shown as it is.
        if let Some(server) = self.server
            && self.machine.shown.is_some()
            && self.patience.may_ask(now)
            && self.hello_at.is_some_and(|at| now >= at)
        {
            self.hello_at = None;
            self.say_hello(server);
        }
        self.ends_at.filter(|at| now >= *at).map(|_| End::Restart)
    }

    /// Whether the node is to begin, with what is known. Without a wired interface there is nobody to begin for.
    fn may_plan(&self, now: Instant) -> bool {
        let is_told = self.answer.is_some() || self.options.boot == Boot::None;
        let may_begin = is_told && self.patience.has_drivers(now) || self.patience.is_over(now);
        may_begin && !self.machine.macs.is_empty()
    }

    fn follow_answer(&mut self) {
        let plan = self.said.plan(&self.machine);
        let was_wrong = self.plan.as_ref().and_then(|plan| plan.wrong.as_ref());
        if let Some(wrong) = plan.wrong.as_ref().filter(|wrong| was_wrong != Some(wrong)) {
            tracing::error!("what the boot server says isn't done: {wrong}");
        }
        self.collector.set_name(&plan.name);
        self.node.follow(boot_time(), plan.clone());
        self.plan = Some(plan);
    }

    /// Its TPM may have its time: who waits for it waits for the boot server, too.
    fn have_key_kept(&self) {
        let (key, tpm, told) = (self.machine.key.clone(), self.tpm.clone(), self.teller.clone());
        tokio::spawn(async move {
            let _ = told.send(Event::Kept(identity::shown(&key, &tpm).await));
        });
    }

    fn say_hello(&mut self, server: SocketAddr) {
        let plan = self.plan.clone().unwrap_or_else(|| self.said.plan(&self.machine));
        let wrong = plan.wrong.as_deref().or(self.node.wrong());
        let is_bare = plan.is_bare || self.node.is_bare();
        let condition = Condition::of(&self.node, self.failed.as_deref(), wrong, is_bare);
        self.slots = node::slots();
        let (machine, told) = (self.machine.clone(), self.teller.clone());
        let slots = self.slots.clone();
        let greeted = hello::greet(server, self.disks.clone(), move |disks| {
            hello::compose(&machine, &plan, condition, disks, slots)
        });
        let (tpm, known) = (self.tpm.clone(), self.said.key().cloned());
        tokio::spawn(async move {
            let heard = match greeted.await {
                Ok(answer) => Ok(Heard::of(answer, &tpm, known).await),
                Err(error) => Err(error),
            };
            let _ = told.send(Event::Answered(heard));
        });
    }

    fn hear(&mut self, answered: anyhow::Result<Heard>) {
        let server = self.server.map(|server| server.to_string()).unwrap_or_default();
        match answered {
            Ok(heard) => {
                let answer = &heard.answer;
                self.hello_at = Some(boot_time() + self.pauses.after(Some(answer)));
                let former = self.answer.as_ref().map(|former| former.state);
                if former != Some(answer.state) || self.unheard.is_some() {
                    match answer.state {
                        State::Accepted => tracing::info!(server, "this node is accepted"),
                        State::Pending => tracing::info!(
                            server,
                            key = %self.machine.key.public(),
                            "this node waits for being accepted: etherpool node accept there"
                        ),
                        State::Unknown => {
                            tracing::warn!(
                                server,
                                "the boot server doesn't keep this node in mind"
                            );
                        }
                    }
                }
                self.unheard = None;
                // What the TPM didn't unseal then it may unseal now.
                if self.answer.as_ref() != Some(answer) || heard.key.is_some() {
                    self.said.hear(&self.machine, &heard);
                    self.answer = Some(heard.answer);
                    self.follow_answer_when_settled();
                }
            }
            Err(error) => {
                self.hello_at = Some(boot_time() + self.pauses.after(None));
                let why = format!("{error:#}");
                if self.unheard.as_ref() != Some(&why) {
                    tracing::warn!(
                        server,
                        "the boot server isn't heard: {why}; asked again and again"
                    );
                    self.unheard = Some(why);
                }
            }
        }
    }

    /// The first time it is followed when it is due.
    fn follow_answer_when_settled(&mut self) {
        if self.plan.is_some() {
            self.follow_answer();
        }
    }

    /// Lets who collects logs have them.
    fn collect(&self) {
        let at = match (self.options.syslog, self.server) {
            (Some(Syslog::At(at)), _) => Some(at),
            (Some(Syslog::BootServer), Some(server)) => Some(Options::syslog_of(server)),
            _ => None,
        };
        if let Some(at) = at {
            self.collector.set(at);
        }
    }

    fn pet(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.pet();
        } else if Watchdog::is_there() {
            match Watchdog::open() {
                Ok(watchdog) => {
                    tracing::info!("the watchdog runs: a machine that hangs starts anew");
                    self.watchdog = Some(watchdog);
                }
                Err(error) => tracing::warn!(%error, "the watchdog can't be used"),
            }
        }
    }

    fn reap(&mut self) {
        while let Some(ended) = reap() {
            self.node.ended(boot_time(), ended);
        }
    }

    /// Ends all that runs.
    fn end(&mut self, how: End) {
        match how {
            End::Restart => tracing::info!("this machine starts anew"),
            End::PowerOff => tracing::info!("this machine switches itself off"),
        }
        let begun = boot_time();
        self.node.stop(begun);
        self.wait_until(begun + END_WITHIN, |life| life.node.is_off());
        // What its commands left; and what doesn't listen.
        for hard in [false, true] {
            if let Err(error) = os::machine::end(None, hard) {
                tracing::warn!(%error, "other processes can't be ended");
            }
            let until = boot_time() + STRANGERS_END_WITHIN;
            self.wait_until(until, |_| !os::machine::has_children());
        }
        let is_written = write_out();
        self.wait_until(boot_time() + WRITTEN_WITHIN, |_| is_written());
        if !is_written() {
            let seconds = WRITTEN_WITHIN.as_secs();
            tracing::error!(
                "not all is written after {seconds} s, and the machine ends all the same"
            );
        }
        if let Some(watchdog) = self.watchdog.take().filter(|_| how == End::PowerOff) {
            watchdog.stop();
        }
    }

    fn wait_until(&mut self, until: Instant, is_so: impl Fn(&Life) -> bool) {
        loop {
            self.reap();
            let now = boot_time();
            if is_so(self) || now >= until {
                return;
            }
            if now >= self.pet_at {
                self.pet_at = now + watchdog::EVERY;
                self.pet();
            }
            self.node.tick(now);
            std::thread::sleep(END_LOOK_EVERY);
        }
    }
}

/// Has all be written that waits for it, and tells whether that is done.
fn write_out() -> impl Fn() -> bool {
    // A disk that hangs holds up the thread that asks it. Who can't even begin one waits for nothing.
    let writing = std::thread::Builder::new().name("sync".to_owned()).spawn(os::machine::sync);
    move || writing.as_ref().map_or(true, std::thread::JoinHandle::is_finished)
}

/// The same for who has nothing else to do meanwhile.
pub fn write_out_in_time() {
    let (is_written, until) = (write_out(), boot_time() + WRITTEN_WITHIN);
    while !is_written() && boot_time() < until {
        std::thread::sleep(END_LOOK_EVERY);
    }
}

//! What starts and ends machines and processes, and what repairs them.

use seal::Security;

use super::*;

impl Cluster {
    /// Whether its pools have keys.
    pub fn is_granted(&self) -> bool {
        self.plan.granted || drivers::is_granted(self.world().seed())
    }

    /// Starts a node's process. Does nothing while it runs.
    pub fn start_node(&self, number: usize) {
        let node = self.node(number);
        if node.process.borrow().is_some() {
            return;
        }
        let process = self.world().start_process(&node.name, node.clock.get());
        let devices = node.disks();
        let ports = open(&self.networks, &node.stations);
        let facts = NodeFacts {
            machine: node.machine,
            name: &node.name,
            shelf: node.shelf,
            security: match drivers::security_of(node.machine) {
                Security::None if self.plan.demanding => Security::Authenticate,
                security => security,
            },
        };
        drivers::serve(&process, ports, facts, &devices);
        *node.process.borrow_mut() = Some(process);
    }

    /// SIGKILL of a node's process. Its disks finish what they were given.
    pub fn kill_node(&self, number: usize) {
        let node = self.node(number);
        let process = node.process.borrow_mut().take();
        if let Some(process) = process {
            process.kill();
        }
    }

    /// A node's machine loses power.
    pub fn cut_node_power(&self, number: usize, survival: Survival) {
        self.kill_node(number);
        let node = self.node(number);
        node.stations.iter().for_each(|station| station.clear());
        for disk in node.disks() {
            disk.cut_power(survival);
        }
        // The boot clock begins anew.
        let clock = node.clock.get();
        node.clock.set(Clock { booted: self.world().timeline().now(), ..clock });
    }

    /// Cuts all of a node's cables, or joins them.
    pub fn cut_link(&self, number: usize, cut: bool) {
        let node = self.node(number);
        self.world().story().tell(&node.name, if cut { "link cut" } else { "link joined" });
        node.stations.iter().for_each(|station| station.set_cut(cut, cut));
    }

    /// Starts a supervisor. Does nothing while it runs.
    pub fn start_supervisor(&self, number: usize) {
        let supervisor = &self.supervisors[number];
        if supervisor.process.borrow().is_some() {
            return;
        }
        let process = self.world().start_process(&supervisor.name, supervisor.clock);
        let Some(handle) = process.handle() else { return };
        let defaults = Limits::default();
        let (timeline, name) = (Rc::clone(self.world().timeline()), supervisor.name.clone());
        let granted = self.is_granted();
        let shows = if self.plan.is_fork { drivers::BYSTANDER } else { &supervisor.name };
        let records = supervisor.records.borrow().clone();
        let config = EngineConfig {
            owner: supervisor.owner,
            owner_name: supervisor.name.clone(),
            keys: granted.then(|| drivers::keys(&handle, shows)),
            own_nodes: pool::OwnNodes::default(),
            pools: records.pools,
            grants: records.grants,
            limits: Limits {
                checksum_bytes: self.plan.checksum_bytes.unwrap_or(defaults.checksum_bytes),
                in_place: self.plan.in_place,
                part_bytes: part_bytes(self.plan.extent_bytes),
                trim_after: self.plan.trim_after.unwrap_or(defaults.trim_after),
                ..defaults
            },
            stops: Stops::at(move |point| timeline.steps().pass(point, &name)),
        };
        let engine = Engine::new(handle.clone(), config);
        let ports = open(&self.networks, &supervisor.stations);
        let least = if granted { Security::Authenticate } else { Security::None };
        drivers::attach(&handle, ports, (shows, least), &engine);
        drivers::follow_events(&process, &engine, self.world(), &supervisor.name, &self.evict);
        *supervisor.last_claim.borrow_mut() = None;
        if self.supervisors.iter().any(|other| !Rc::ptr_eq(other, supervisor) && other.ran.get()) {
            // From here on one of them may depose the other.
            self.stage.verdict.expect_fencing();
        }
        supervisor.ran.set(true);
        *supervisor.engine.borrow_mut() = Some(engine);
        *supervisor.process.borrow_mut() = Some(process);
    }

    /// SIGKILL of a supervisor.
    pub fn kill_supervisor(&self, number: usize) {
        let supervisor = &self.supervisors[number];
        if self.stage.forks.by_luck() && supervisor.engine().is_some() {
            *supervisor.last_claim.borrow_mut() = Claim::of(self, number);
        }
        let (process, engine) =
            (supervisor.process.borrow_mut().take(), supervisor.engine.borrow_mut().take());
        if let Some(engine) = &engine {
            *supervisor.records.borrow_mut() = Records::of(engine);
        }
        if let Some(process) = process {
            process.kill();
        }
        drop(engine);
    }

    /// The power goes everywhere.
    pub fn cut_all_power(&self) {
        self.tell("power cut of everything");
        for number in 0..self.supervisors.len() {
            self.kill_supervisor(number);
        }
        for number in 0..self.node_count() {
            let survival = self.any_survival();
            self.cut_node_power(number, survival);
        }
    }

    /// What a power cut leaves, by luck.
    pub fn any_survival(&self) -> Survival {
        self.luck(any_survival)
    }

    /// Everything that was broken from outside works again: power, links, processes, disks' answers.
    pub fn heal(&self) {
        self.tell("all is repaired");
        self.networks.iter().for_each(|network| network.join_all());
        for number in 0..self.node_count() {
            let node = self.node(number);
            mend(&node.stations);
            for disk in node.disks() {
                disk.heal();
            }
            if node.disks().iter().any(|disk| disk.is_to_be_reopened()) {
                self.kill_node(number);
            }
            if let Some(process) = node.process() {
                process.resume();
            }
            self.start_node(number);
        }
        for supervisor in &self.supervisors {
            mend(&supervisor.stations);
            if let Some(process) = supervisor.process() {
                process.resume();
            }
        }
    }
}

/// Where extents are smaller than pools have them, disks and volumes are short as well, which are to move in parts like
/// long ones.
fn part_bytes(extent_bytes: u64) -> u64 {
    if extent_bytes < 4 << 20 { 2 * extent_bytes } else { Limits::default().part_bytes }
}

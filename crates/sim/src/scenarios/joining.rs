//! How machines with blank disks and supervisors come together where keys are demanded: by a token that both have, or by keys
//! that their configurations name. All of it begins in any order, ends and begins again at any moment, over bad cables, beside
//! strangers that would have the disks.
//!
//! **Whoever has no token that is good has nothing; whoever has one gets in, and keeps what he got.** A token that was
//! used up, given up or has ended may be known to everybody.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use aoe_wire::ShelfSlot;
use futures::FutureExt;
use rand::Rng;
use rand::rngs::SmallRng;
use seal::{Claim, PoolKeyPair, PublicKey, SecretKey, Security, TOKENS_MAX, Token};

use self::machines::{Blank, Node, Supervisor, check_disk, key_of};
use self::strangers::Strangers;
use super::common::expect;
use super::scenario;
use crate::medium::Survival;
use crate::network::{Network, Quality};
use crate::random::fork;
use crate::runner::{Failure, Scenario, Stage};

mod known;
mod machines;
mod strangers;

pub const SCENARIOS: &[Scenario] = &[scenario(
    "joining",
    "nodes with blank disks and supervisors join by tokens, in any order and over restarts, beside strangers that try old \
     and other tokens, recorded and forged frames, and plain AoE; disks whose pool's key is lost are given up, and others not",
    900,
    |stage| joining(stage).boxed_local(),
)];

/// Longest that it may take, from the last repair, until every supervisor has its disks. Who was at an address before is doubted
/// after 35 s, and who is told as a conflict there asked again after a minute.
const JOINED_MAX: Duration = Duration::from_secs(150);
const LOOK: Duration = Duration::from_millis(500);
/// What a disk that isn't to obey anybody any more has, and others have as well.
const POOLS: u8 = 2;

struct Site {
    stage: Stage,
    network: Rc<Network>,
    nodes: Rc<Vec<Rc<Node>>>,
    supervisors: Vec<Supervisor>,
    strangers: Strangers,
    /// Those that were made.
    tokens: RefCell<Vec<Token>>,
    random: RefCell<SmallRng>,
}

impl Site {
    fn new(stage: &Stage) -> Result<Site, Failure> {
        let network = Network::new(&stage.world);
        let mut random = fork(stage.world.seed(), "joining");
        let keys = [0, 1].map(|number| key_of(&stage.world, &format!("super-{number}")));
        let mut named = [Vec::new(), Vec::new()];
        let count = random.random_range(2..=4);
        let mut nodes = Vec::new();
        for number in 0..count {
            let (name, shelf) = (format!("node-{number}"), number + 1);
            let whose = random.random_range(0..2);
            let security =
                [Security::Authenticate, Security::Encrypt][random.random_range(0..2_usize)];
            // The first one takes tokens: there is something to be joined.
            let claim = match random.random_range(0..4) {
                0 if number > 0 => Claim::Keys(vec![keys[whose]]),
                _ => Claim::Token,
            };
            if claim != Claim::Token {
                named[whose].push(key_of(&stage.world, &name));
            }
            let disks = (0..random.random_range(1..=2)).map(|slot| {
                let pool = random.random_range(0..=POOLS);
                blank(stage, ShelfSlot::new(shelf, slot), (whose, pool), keys[whose])
            });
            let disks = disks.collect::<Result<_, _>>()?;
            let terms = (security, claim);
            nodes.push(Rc::new(Node::new(stage, &network, (name, shelf), (whose, disks), terms)));
        }
        let supervisors = named.into_iter().enumerate().map(|(number, named)| {
            let security = Security::ALL[random.random_range(1..3)];
            let has_list = !named.is_empty() || random.random_range(0..2) == 0;
            let name = format!("super-{number}");
            Supervisor::new(&network, (number, name), security, has_list.then_some(named))
        });
        Ok(Site {
            supervisors: supervisors.collect(),
            strangers: Strangers::new(stage, &network)?,
            stage: stage.clone(),
            nodes: Rc::new(nodes),
            network,
            tokens: RefCell::default(),
            random: RefCell::new(random),
        })
    }

    fn below(&self, bound: usize) -> usize {
        self.random.borrow_mut().random_range(0..bound)
    }

    fn chance(&self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    fn tell(&self, what: &str) {
        self.stage.world.story().tell("director", what);
    }

    async fn wait(&self, most_ms: usize) {
        self.sleep(Duration::from_millis(self.below(most_ms) as u64)).await;
    }

    async fn sleep(&self, duration: Duration) {
        self.stage.world.director().sleep(duration).await;
    }

    fn now(&self) -> u64 {
        self.stage.world.director().calendar().as_secs()
    }

    /// A token that is good for minutes, of no machine yet.
    fn token(&self) -> Token {
        let secret = std::array::from_fn(|_| self.below(256) as u8);
        Token::new(secret, self.now() + 119 + self.below(60) as u64)
    }

    /// A supervisor that runs makes one; tells it, or one that it has made before.
    async fn token_of(&self, number: usize) -> Option<Token> {
        let known = self.supervisors[number].known()?;
        let good = known.roster().tokens(known.now());
        if good.len() >= TOKENS_MAX || !good.is_empty() && self.chance(2) {
            return good.last().cloned();
        }
        let token = self.token();
        self.tell(&format!("super-{number} makes {token:?}"));
        self.tokens.borrow_mut().push(token.clone());
        known.change(|roster, now| roster.add_token(&token, now)).await;
        Some(token)
    }

    /// Gives a node a token of its supervisor, by hand or in its configuration, unless it knows that one already.
    async fn hand_on(&self, node: &Node) {
        if node.claim != Claim::Token {
            return;
        }
        let Some(token) = self.token_of(node.whose).await else { return };
        if self.have_joined(node) || node.given.borrow().contains(&token) {
            return;
        }
        self.tell(&format!("{} is given {token:?}", node.name));
        node.given.borrow_mut().push(token.clone());
        if node.is_running() && self.chance(2) {
            node.join(&token).await;
        } else {
            node.kill();
            node.named.replace(Some(token));
            self.start_node(node);
        }
    }

    fn supervisor_key(&self, number: usize) -> PublicKey {
        key_of(&self.stage.world, &self.supervisors[number].name)
    }

    fn start_node(&self, node: &Node) {
        node.start(&self.stage.world, &self.network);
    }

    fn start_supervisor(&self, supervisor: &Supervisor, load: bool) {
        supervisor.start(&self.stage, &self.network, &self.nodes, load);
    }

    /// A machine ends, or begins again.
    fn turn(&self) {
        if self.chance(3) {
            let supervisor = &self.supervisors[self.below(2)];
            match supervisor.is_running() {
                true => supervisor.kill(),
                false => self.start_supervisor(supervisor, true),
            }
            return;
        }
        let node = &self.nodes[self.below(self.nodes.len())];
        if !node.is_running() {
            return self.start_node(node);
        }
        node.kill();
        if self.chance(2) {
            node.disks.iter().for_each(|blank| blank.disk.cut_power(Survival::Arbitrary));
        }
        if self.chance(2) {
            self.start_node(node);
        }
    }

    fn disturb(&self) {
        let nodes = self.nodes.iter().map(|node| &node.station);
        let all: Vec<_> = nodes.chain(self.supervisors.iter().map(|of| &of.station)).collect();
        let station = all[self.below(all.len())];
        let bad = Quality { loss: 0.05, duplication: 0.05, ..Quality::GOOD };
        station.set_quality(if self.chance(2) { bad } else { Quality::GOOD });
        station.set_cut(self.chance(6), self.chance(6));
    }

    /// What strangers do in a while.
    async fn strangers(&self, most: usize) -> Result<(), Failure> {
        if self.chance(3) {
            self.strangers.start(&self.nodes, false).await?;
        }
        for _ in 0..self.below(most) {
            match self.chance(3) {
                true => self.strangers.write_plainly(&self.nodes),
                false => self.strangers.act(),
            }
            self.wait(10).await;
        }
        Ok(())
    }

    /// Everything runs, and nothing disturbs.
    fn heal(&self) {
        self.tell("all is well from now on");
        let nodes = self.nodes.iter().map(|node| &node.station);
        for station in nodes.chain(self.supervisors.iter().map(|of| &of.station)) {
            station.set_quality(Quality::GOOD);
            station.set_cut(false, false);
        }
        self.nodes.iter().filter(|node| !node.is_running()).for_each(|node| self.start_node(node));
        let ended = self.supervisors.iter().filter(|supervisor| !supervisor.is_running());
        ended.for_each(|supervisor| self.start_supervisor(supervisor, true));
    }

    /// Nothing is a stranger's, and nobody knows one.
    fn check(&self) -> Result<(), Failure> {
        for node in self.nodes.iter() {
            let own = self.supervisor_key(node.whose);
            let running = node.running.borrow().as_ref().map(|running| running.known.roster());
            for roster in running.iter().chain([&*node.file.borrow()]) {
                let other = roster.members().find(|key| *key != own);
                expect(other.is_none(), || format!("{} was joined by {other:?}", node.name))?;
            }
            let owner = self.supervisors[node.whose].owner;
            node.disks.iter().try_for_each(|blank| check_disk(blank, owner))?;
        }
        let false_keys = self.strangers.keys();
        for supervisor in &self.supervisors {
            let known = supervisor.known().map(|known| known.roster());
            for roster in known.iter().chain([&*supervisor.file.borrow()]) {
                let other = roster.members().find(|key| false_keys.contains(key));
                let name = &supervisor.name;
                expect(other.is_none(), || format!("{name} was joined by a stranger"))?;
            }
        }
        Ok(())
    }

    /// Whether node and supervisor know each other, also after a restart.
    fn have_joined(&self, node: &Node) -> bool {
        let supervisor = &self.supervisors[node.whose];
        let (own, other) = (key_of(&self.stage.world, &node.name), self.supervisor_key(node.whose));
        node.claim != Claim::Token
            || node.file.borrow().has(&other) && supervisor.file.borrow().has(&own)
    }

    /// Whether a node's configuration names a token that its supervisor has, too, for long enough: that does, also where the node
    /// has used it up and its answer was lost. It is told by what was given to whom, not by what the node makes of it.
    fn has_what_it_takes(&self, node: &Node) -> bool {
        let later = self.now() + (JOINED_MAX / 3).as_secs();
        let good = self.supervisors[node.whose].file.borrow().tokens(later);
        node.named.borrow().as_ref().is_some_and(|token| good.contains(token))
    }

    /// Both ends of a joining end when the node has kept it, and its supervisor not yet.
    async fn lose_an_answer(&self) {
        let Some(node) = self.nodes.iter().find(|node| !self.have_joined(node)) else { return };
        self.hand_on(node).await;
        // One that was typed in isn't kept: it is named from now on.
        node.named.replace(node.given.borrow().last().cloned());
        let supervisor = &self.supervisors[node.whose];
        for _ in 0..5000 {
            if node.file.borrow().has(&self.supervisor_key(node.whose)) {
                if !self.have_joined(node) {
                    self.tell(&format!("{} has joined, and who asked doesn't know", node.name));
                    node.kill();
                    supervisor.kill();
                }
                return;
            }
            self.sleep(Duration::from_millis(1)).await;
        }
    }

    /// All nodes and supervisors come to know each other.
    async fn all_join(&self) -> Result<(), Failure> {
        let begin = self.stage.world.timeline().now();
        let took = || self.stage.world.timeline().now().since(begin);
        let mut asked = Duration::ZERO;
        loop {
            self.check()?;
            let left: Vec<_> = self.nodes.iter().filter(|node| !self.have_joined(node)).collect();
            if left.is_empty() {
                return Ok(());
            }
            let names: Vec<_> = left.iter().map(|node| &node.name).collect();
            expect(took() < JOINED_MAX, || format!("{names:?} haven't joined"))?;
            // A token that was typed in may be used up on one side, and the other hear nothing of it, or end before it has kept
            // that: then it takes another one.
            if asked.is_zero() || took() - asked > JOINED_MAX / 3 {
                asked = took().max(LOOK);
                for node in left.into_iter().filter(|node| !self.has_what_it_takes(node)) {
                    self.hand_on(node).await;
                }
            }
            self.sleep(LOOK).await;
        }
    }

    /// Every supervisor reads its disks as they were written.
    async fn all_are_read(&self) -> Result<(), Failure> {
        self.supervisors.iter().for_each(Supervisor::kill);
        let all = || self.nodes.iter().flat_map(|node| &node.disks);
        all().for_each(|blank| blank.is_verified.set(false));
        self.supervisors.iter().for_each(|supervisor| self.start_supervisor(supervisor, false));
        let begin = self.stage.world.timeline().now();
        loop {
            self.check()?;
            let left = all().find(|blank| !blank.is_verified.get());
            let Some(left) = left else { return Ok(()) };
            let took = self.stage.world.timeline().now().since(begin);
            expect(took < JOINED_MAX, || format!("{} isn't read", left.address))?;
            self.sleep(LOOK).await;
        }
    }

    /// Tokens that are good nowhere any more: no secrets.
    fn leak(&self) {
        let now = self.now();
        let is_good = |token: &Token| {
            // By which of several tokens a node has joined it doesn't tell, and the others stay good.
            let is_used = |node: &Node| node.given.borrow().len() == 1 && self.have_joined(node);
            let at_node = |node: &Rc<Node>| node.given.borrow().contains(token) && !is_used(node);
            let at_supervisor = |of: &Supervisor| of.file.borrow().tokens(now).contains(token);
            token.until_seconds() > now
                && (self.nodes.iter().any(at_node) || self.supervisors.iter().any(at_supervisor))
        };
        let tokens = self.tokens.borrow();
        let bad = tokens.iter().filter(|token| !is_good(token)).cloned();
        self.strangers.tokens.borrow_mut().extend(bad);
    }

    /// The keys of some pools are lost, and nodes are told so.
    async fn lose_keys(&self) -> Result<(), Failure> {
        self.supervisors.iter().for_each(Supervisor::kill);
        for node in self.nodes.iter() {
            let keys = node.disks.iter().filter_map(|blank| blank.grant.as_ref());
            let lost: Vec<_> = keys.map(|grant| grant.key()).filter(|_| self.chance(2)).collect();
            let before: Vec<_> = node.disks.iter().map(Blank::reservation).collect();
            self.tell(&format!("on {} {lost:?} are lost", node.name));
            node.kill();
            node.lost.replace(lost.clone());
            node.disks.iter().for_each(|blank| blank.give_up(&lost));
            self.start_node(node);
            self.wait(3000).await;
            self.sleep(Duration::from_secs(2)).await;
            for (blank, before) in node.disks.iter().zip(before) {
                let expected =
                    before.map(|(owner, key)| (owner, key.filter(|key| !lost.contains(key))));
                let found = blank.reservation();
                let address = blank.address;
                expect(found == expected, || format!("{address}: {found:?}, not {expected:?}"))?;
            }
            node.lost.replace(Vec::new());
        }
        Ok(())
    }
}

/// A blank disk of a supervisor's, for a pool of his if that has a key.
fn blank(
    stage: &Stage,
    address: ShelfSlot,
    (whose, pool): (usize, u8),
    key: PublicKey,
) -> Result<Blank, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure(error.to_string());
    let pair = PoolKeyPair::of(SecretKey::new([1 + whose as u8 * POOLS + pool; 32]));
    let pair = pair.map_err(|error| failed(&error))?;
    let grant = pair.found(&[key]).map_err(|error| failed(&error))?;
    Ok(Blank::new(stage, address, (pool < POOLS).then(|| Rc::new(grant))))
}

async fn joining(stage: Stage) -> Result<(), Failure> {
    let site = Site::new(&stage)?;
    // One that its clock has ended, and one that nobody here was ever given.
    let expired = Token::new([1; 16], site.now());
    site.strangers.tokens.borrow_mut().extend([expired, site.token()]);
    site.nodes.iter().filter(|_| site.chance(2)).for_each(|node| site.start_node(node));
    let supervisors = site.supervisors.iter().filter(|_| site.chance(2));
    supervisors.for_each(|supervisor| site.start_supervisor(supervisor, true));
    for _ in 0..6 + site.below(8) {
        match site.below(4) {
            0 => site.hand_on(&Rc::clone(&site.nodes[site.below(site.nodes.len())])).await,
            1 => site.disturb(),
            _ => site.turn(),
        }
        site.wait(1500).await;
        site.leak();
        site.strangers(40).await?;
        site.check()?;
    }
    site.heal();
    site.strangers.start(&site.nodes, true).await?;
    site.lose_an_answer().await;
    site.heal();
    site.all_join().await?;
    late(&site).await?;
    site.heal();
    site.all_are_read().await?;
    site.lose_keys().await?;
    site.strangers(20).await?;
    site.strangers.stop();
    site.heal();
    site.all_are_read().await?;
    site.check()
}

/// All have joined: supervisors give their tokens up, or wait until they have ended, and everybody may learn of them.
async fn late(site: &Site) -> Result<(), Failure> {
    if site.chance(2) {
        for supervisor in &site.supervisors {
            let Some(known) = supervisor.known() else { continue };
            known.change(|roster, now| roster.spend(|_| true, now)).await;
        }
    } else {
        // One that no supervisor has is used up by nobody.
        let token = site.token();
        site.tokens.borrow_mut().push(token.clone());
        for node in site.nodes.iter().filter(|node| node.claim == Claim::Token) {
            node.given.borrow_mut().push(token.clone());
            node.join(&token).await;
        }
        let ends = site.tokens.borrow().iter().map(Token::until_seconds).max();
        let left = ends.unwrap_or_default().saturating_sub(site.now());
        site.sleep(Duration::from_secs(left)).await;
    }
    for _ in 0..3 + site.below(4) {
        site.leak();
        site.strangers.start(&site.nodes, true).await?;
        site.sleep(Duration::from_secs(1)).await;
        site.wait(2000).await;
        site.strangers(20).await?;
        site.turn();
        site.check()?;
    }
    Ok(())
}

//! Who belongs to a node's, or a supervisor's, cluster beside those that its configuration names: machines that have proved
//! to it, by a token that both had, that somebody wanted them together. Kept in a file of the state directory that only root
//! reads, as tokens are in it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use control::api::{MembersReport, TokenReport};
use control::node::Claim;
use os::ReactorHandle;
use os::dir::Directory;
use runtime::Semaphore;
use seal::{Members, PublicKey, TOKENS_MAX, Token, TokenId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A node's file; it may have its state directory in common with a supervisor, and with targets.
pub const NODE_FILE: &str = "node-members.json";
/// A supervisor's.
const SUPERVISOR_FILE: &str = "supervisor-members.json";
/// More than a file with as many members as there may be has.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Members of one machine.
const MEMBERS_MAX: usize = 4096;

/// The members, and the tokens by which others become that.
pub struct Membership(Rc<Shared>);

struct Shared {
    handle: ReactorHandle,
    /// None where nothing outlives the process.
    state_dir: Option<Directory>,
    file: String,
    /// A token does for one machine here: who has learned of it on another one that joined gets nowhere with it.
    uses_tokens_up: bool,
    claim: RefCell<Claim>,
    state: RefCell<State>,
    /// By which tokens members came in since the start: their sessions may have to be opened again.
    used: RefCell<Vec<(PublicKey, Token)>>,
    /// The file is written by one at a time.
    writing: Rc<Semaphore>,
}

/// What the file holds.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    members: BTreeSet<PublicKey>,
    tokens: Vec<Token>,
    /// Tokens that were used up or given up, and when they end: a configuration that still names one says nothing new.
    #[serde(default)]
    spent: BTreeMap<TokenId, u64>,
}

impl Membership {
    /// A supervisor's, to which nodes join. Blocks.
    ///
    /// # Errors
    /// When the file can't be read or is damaged: whom to trust isn't for anybody to guess.
    pub fn of_supervisor(
        handle: &ReactorHandle,
        state_dir: &Directory,
    ) -> anyhow::Result<Rc<Membership>> {
        Membership::load(handle, Some((state_dir, SUPERVISOR_FILE.to_owned())), false)
    }

    /// That of a node or target, which joins supervisors, in this file of its state directory; only in memory without.
    /// Nobody on a new machine. Blocks.
    ///
    /// # Errors
    /// As for supervisors.
    pub fn of_node(
        handle: &ReactorHandle,
        place: Option<(&Directory, String)>,
        claim: &Claim,
    ) -> anyhow::Result<Rc<Membership>> {
        let membership = Membership::load(handle, place, true)?;
        membership.set_claim(claim);
        Ok(membership)
    }

    fn load(
        handle: &ReactorHandle,
        place: Option<(&Directory, String)>,
        uses_tokens_up: bool,
    ) -> anyhow::Result<Rc<Membership>> {
        let read = place.as_ref().map(|(directory, file)| read(directory, file)).transpose()?;
        let (state_dir, file) = place.unzip();
        Ok(Rc::new(Membership(Rc::new(Shared {
            handle: handle.clone(),
            state_dir: state_dir.cloned(),
            file: file.unwrap_or_default(),
            uses_tokens_up,
            claim: RefCell::default(),
            used: RefCell::default(),
            state: RefCell::new(read.unwrap_or_default()),
            writing: Semaphore::new(1),
        }))))
    }

    /// From now on another setting counts.
    pub fn set_claim(&self, claim: &Claim) {
        self.0.claim.replace(claim.clone());
    }

    /// All members, and the tokens that are good at present.
    pub fn report(&self) -> MembersReport {
        let members = self.0.state.borrow().members.iter().copied().collect();
        let tokens = self.0.good_tokens();
        MembersReport { members, tokens: tokens.iter().map(report_of).collect() }
    }

    /// Takes a token, which lasts when this returns.
    ///
    /// # Errors
    /// When it is good no more, there are as many as there may be, or it can't be kept.
    pub async fn add_token(&self, token: Token) -> Result<(), TokenRefused> {
        self.0.check(&token)?;
        Ok(self.0.change(|state| state.add(&token)).await?)
    }

    /// The same before anybody is heard, so that nobody is taken for a stranger who has it. Blocks.
    ///
    /// # Errors
    /// As above.
    pub fn add_token_at_start(&self, token: &Token) -> Result<(), TokenRefused> {
        self.0.check(token)?;
        let mut next = self.0.state.borrow().clone();
        next.add(token);
        self.0.writer(&next).and_then(|write| write())?;
        self.0.state.replace(next);
        Ok(())
    }

    /// Whether a token was used up, or given up, here.
    pub fn is_spent(&self, token: &Token) -> bool {
        self.0.state.borrow().spent.contains_key(&token.id())
    }

    /// Gives up a token: nobody joins this machine by it from now on. Whether there was one.
    pub async fn revoke_token(&self, id: TokenId) -> anyhow::Result<bool> {
        if !self.0.good_tokens().iter().any(|token| token.id() == id) {
            return Ok(false);
        }
        self.0.change(|state| state.spend(|token| token.id() == id)).await?;
        Ok(true)
    }

    /// Takes somebody for a member whom people know, without a token; it lasts when this returns.
    ///
    /// # Errors
    /// When there are as many as there may be, or it can't be kept.
    pub async fn add(&self, key: PublicKey) -> anyhow::Result<()> {
        let count = self.0.state.borrow().members.len();
        if count >= MEMBERS_MAX {
            anyhow::bail!("there are {count} members already; forget some: etherpool key forget");
        }
        let add = |state: &mut State| {
            state.members.insert(key);
        };
        self.0.change(add).await
    }

    /// Takes somebody for a stranger from now on, and gives up all tokens, as he may have one. Whether it was a member.
    pub async fn forget(&self, key: PublicKey) -> anyhow::Result<bool> {
        if !self.0.state.borrow().members.contains(&key) {
            return Ok(false);
        }
        let forgotten = self.0.change(|state| {
            state.members.remove(&key);
            state.spend(|_| true);
        });
        forgotten.await?;
        Ok(true)
    }
}

/// Why a token isn't taken.
#[derive(Debug, thiserror::Error)]
pub enum TokenRefused {
    /// Its time is over, by this machine's clock.
    #[error(
        "the token has expired, by the clock of this machine; make another one on the supervisor: etherpool token create"
    )]
    Expired,
    /// There are as many as there may be.
    #[error("{TOKENS_MAX} tokens are good already; one of them does for any number of machines")]
    TooMany,
    /// It can't be kept.
    #[error(transparent)]
    NotKept(#[from] anyhow::Error),
}

impl State {
    fn add(&mut self, token: &Token) {
        let now = now_seconds();
        self.tokens.retain(|known| known != token && known.until_seconds() > now);
        self.tokens.push(token.clone());
        self.spent.remove(&token.id());
    }

    /// These tokens are good no more.
    fn spend(&mut self, is_meant: impl Fn(&Token) -> bool) {
        let now = now_seconds();
        self.spent.retain(|_, until| *until > now);
        for token in self.tokens.extract_if(.., |token| is_meant(token)) {
            self.spent.insert(token.id(), token.until_seconds());
        }
    }
}

impl Shared {
    /// Whether a token may be taken.
    fn check(&self, token: &Token) -> Result<(), TokenRefused> {
        if token.until_seconds() <= now_seconds() {
            return Err(TokenRefused::Expired);
        }
        let tokens = self.good_tokens();
        let is_full = tokens.len() >= TOKENS_MAX && !tokens.contains(token);
        if is_full { Err(TokenRefused::TooMany) } else { Ok(()) }
    }

    fn good_tokens(&self) -> Vec<Token> {
        let now = now_seconds();
        let state = self.state.borrow();
        state.tokens.iter().filter(|token| token.until_seconds() > now).cloned().collect()
    }

    /// Changes what is known, once that lasts: what can't be kept isn't known.
    async fn change(&self, change: impl Fn(&mut State)) -> anyhow::Result<()> {
        let _turn = self.writing.acquire(1).await;
        let mut next = self.state.borrow().clone();
        change(&mut next);
        self.keep(&next).await?;
        // Somebody may have joined meanwhile.
        change(&mut self.state.borrow_mut());
        Ok(())
    }

    async fn keep(&self, state: &State) -> anyhow::Result<()> {
        let write = self.writer(state)?;
        self.handle.blocking(write).await?
    }

    /// What writes the file. It blocks.
    fn writer(
        &self,
        state: &State,
    ) -> anyhow::Result<impl FnOnce() -> anyhow::Result<()> + Send + 'static> {
        let (name, state_dir) = (self.file.clone(), self.state_dir.clone());
        let text = Zeroizing::new(serde_json::to_vec_pretty(state)?);
        Ok(move || {
            let Some(state_dir) = state_dir else { return Ok(()) };
            let written = state_dir.replace(OsStr::new(&name), &text);
            written.with_context(|| format!("cannot write {}", state_dir.path_of(&name).display()))
        })
    }
}

impl Members for Membership {
    fn has(&self, key: &PublicKey) -> bool {
        *self.0.claim.borrow() == Claim::Token && self.0.state.borrow().members.contains(key)
    }

    fn is_own(&self, key: &PublicKey, is_named: bool) -> bool {
        match &*self.0.claim.borrow() {
            Claim::Token => is_named,
            Claim::Keys(keys) => keys.contains(key),
            Claim::Anyone => true,
        }
    }

    fn tokens(&self) -> Vec<Token> {
        let takes_tokens = *self.0.claim.borrow() == Claim::Token;
        if takes_tokens { self.0.good_tokens() } else { Vec::new() }
    }

    fn tokens_for(&self, key: &PublicKey) -> Vec<Token> {
        let mut tokens = Members::tokens(self);
        let (used, now) = (self.0.used.borrow(), now_seconds());
        let own = used.iter().filter(|(user, token)| user == key && token.until_seconds() > now);
        tokens.extend(own.filter(|_| self.has(key)).map(|(_, token)| token.clone()));
        tokens
    }

    fn joined(&self, key: PublicKey, by: &Token) {
        let shared = Rc::clone(&self.0);
        let count = shared.state.borrow().members.len();
        if count >= MEMBERS_MAX {
            return tracing::error!(%key, "there are {count} members already; forget some: etherpool key forget");
        }
        // It counts at once: the session by which it was proved is opened now.
        let is_new = shared.state.borrow_mut().members.insert(key);
        let is_good = shared.state.borrow().tokens.contains(by);
        if shared.uses_tokens_up && is_good {
            shared.state.borrow_mut().spend(|token| token == by);
            shared.used.borrow_mut().push((key, by.clone()));
        } else if !is_new {
            return;
        }
        if is_new {
            tracing::info!(%key, "a machine has joined, by a token");
        }
        let runtime = shared.handle.runtime().clone();
        runtime.spawn(async move {
            let _turn = shared.writing.acquire(1).await;
            let state = shared.state.borrow().clone();
            if let Err(error) = shared.keep(&state).await {
                tracing::error!(%key, "it has to join again after the next start: {error:#}");
            }
        });
    }
}

fn read(directory: &Directory, file: &str) -> anyhow::Result<State> {
    let path = directory.path_of(file);
    let read = directory.read(file, FILE_BYTES_MAX);
    let read = read.with_context(|| format!("cannot read {}", path.display()))?;
    let Some(text) = read.map(Zeroizing::new) else { return Ok(State::default()) };
    serde_json::from_slice(&text).with_context(|| {
        format!(
            "{} is damaged; take it away, and have this machine join again (etherpool token create on the supervisor)",
            path.display()
        )
    })
}

/// What is known of a token to who doesn't have it.
pub fn report_of(token: &Token) -> TokenReport {
    TokenReport { id: token.id(), until: token.until_seconds() }
}

/// A token that is good for as long as that from now on.
pub fn make_token(valid: Duration) -> anyhow::Result<Token> {
    let secret = os::random_bytes().context("random numbers")?;
    // The minute that has begun is left out.
    Ok(Token::new(secret, now_seconds().saturating_add(valid.as_secs()).saturating_add(59)))
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use os::Reactor;
    use seal::{Occasion, Prover};

    use super::*;

    const KEY: PublicKey = PublicKey([1; 32]);
    const OTHER: PublicKey = PublicKey([2; 32]);

    /// What a node with this directory has, after a start.
    fn with(
        directory: &tempfile::TempDir,
        claim: Claim,
        work: impl AsyncFnOnce(Rc<Membership>) + 'static,
    ) {
        let (mut reactor, handle) = Reactor::new().unwrap();
        let directory = Directory::open(directory.path()).unwrap();
        let place = Some((&directory, NODE_FILE.to_owned()));
        let membership = Membership::of_node(&handle, place, &claim).unwrap();
        let done = reactor.run_until(async move {
            work(Rc::clone(&membership)).await;
            // What was begun to be written is there: tasks have their turns in order.
            let (sender, reached) = futures::channel::oneshot::channel();
            membership.0.handle.runtime().spawn(async move { sender.send(()).unwrap() });
            reached.await.unwrap();
            let _turn = membership.0.writing.acquire(1).await;
        });
        done.unwrap();
    }

    #[test]
    fn who_joined_is_a_member_after_a_restart_too() {
        let directory = tempfile::tempdir().unwrap();
        let token = make_token(Duration::from_secs(60)).unwrap();
        let known = token.clone();
        with(&directory, Claim::Token, async move |membership| {
            membership.add_token_at_start(&known).unwrap();
            assert!(!membership.has(&KEY) && !membership.is_spent(&known));
            membership.joined(KEY, &known);
            assert!(membership.has(&KEY));
            assert!(membership.is_spent(&known) && Members::tokens(&*membership).is_empty());
            // The answer may have been lost, to who joined by it, and by that alone.
            assert_eq!(membership.tokens_for(&KEY), [known]);
            assert!(membership.tokens_for(&OTHER).is_empty());
        });
        let path = directory.path().join(NODE_FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        with(&directory, Claim::Token, async move |membership| {
            assert!(membership.has(&KEY) && !membership.has(&OTHER) && membership.is_spent(&token));
            membership.add_token(token.clone()).await.unwrap();
            assert_eq!(Members::tokens(&*membership), *std::slice::from_ref(&token));
            assert!(membership.revoke_token(token.id()).await.unwrap());
            assert!(!membership.revoke_token(token.id()).await.unwrap());
            membership.add_token(token.clone()).await.unwrap();
            assert!(!membership.forget(OTHER).await.unwrap());
            assert!(!membership.is_spent(&token), "nobody was forgotten");
            assert!(membership.forget(KEY).await.unwrap());
            assert!(!membership.forget(KEY).await.unwrap());
            assert!(membership.is_spent(&token));
            membership.add(OTHER).await.unwrap();
        });
        with(&directory, Claim::Token, async move |membership| {
            assert!(!membership.has(&KEY) && Members::tokens(&*membership).is_empty());
            assert!(membership.has(&OTHER), "it was added by hand");
        });
    }

    #[test]
    fn tokens_end_and_are_few() {
        let directory = tempfile::tempdir().unwrap();
        with(&directory, Claim::Token, async move |membership| {
            let past = Token::new([1; 16], now_seconds());
            let refused = membership.add_token(past.clone()).await;
            assert!(matches!(refused, Err(TokenRefused::Expired)), "{refused:?}");
            membership.0.state.borrow_mut().tokens.push(past);
            assert_eq!(membership.report(), MembersReport::default());
            for _ in 0..TOKENS_MAX {
                membership.add_token(make_token(Duration::from_secs(60)).unwrap()).await.unwrap();
            }
            let again = Members::tokens(&*membership).remove(0);
            membership.add_token(again).await.unwrap();
            let one_more = make_token(Duration::from_secs(60)).unwrap();
            let refused = membership.add_token_at_start(&one_more);
            assert!(matches!(refused, Err(TokenRefused::TooMany)), "{refused:?}");
            let refused = membership.add_token(one_more).await;
            assert!(matches!(refused, Err(TokenRefused::TooMany)), "{refused:?}");
        });
    }

    #[test]
    fn a_setting_says_who_may_have_disks() {
        let directory = tempfile::tempdir().unwrap();
        with(&directory, Claim::Keys(vec![OTHER]), async move |membership| {
            let [one, other] =
                [60, 120].map(|valid| make_token(Duration::from_secs(valid)).unwrap());
            membership.add_token(one.clone()).await.unwrap();
            membership.add_token(other).await.unwrap();
            membership.joined(KEY, &one);
            assert!(!membership.has(&KEY) && Members::tokens(&*membership).is_empty());
            assert!(membership.is_own(&OTHER, false) && !membership.is_own(&KEY, true));
            membership.set_claim(&Claim::Token);
            assert!(membership.has(&KEY) && !Members::tokens(&*membership).is_empty());
            assert!(!membership.is_own(&OTHER, false) && membership.is_own(&KEY, true));
            membership.set_claim(&Claim::Anyone);
            assert!(membership.is_own(&KEY, false));
        });
    }

    #[test]
    fn both_ends_come_to_know_each_other() {
        let [one, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let token = make_token(Duration::from_secs(60)).unwrap();
        let occasion = Occasion { client: KEY, target: OTHER, prologue: b"here" };
        let proofs = token.proof(Prover::Client, &occasion);
        for (directory, has_token) in [(&one, true), (&other, false)] {
            let (token, proofs) = (token.clone(), proofs);
            with(directory, Claim::Token, async move |membership| {
                if has_token {
                    membership.add_token(token).await.unwrap();
                }
                let keys = crate::keys::fresh().unwrap();
                let identity = seal::Identity::new(keys, Box::new(|_| {}))
                    .with_members(Rc::clone(&membership) as Rc<dyn Members>);
                let known = identity.take_in(Prover::Client, &occasion, &proofs);
                assert_eq!(known.is_some(), has_token);
                assert_eq!(membership.report().members.contains(&KEY), has_token);
                assert_eq!(identity.is_own(&KEY), has_token);
                assert!(identity.admits(&KEY), "it is spoken with all the same");
            });
        }
    }

    #[test]
    fn what_is_damaged_is_neither_used_nor_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (_reactor, handle) = Reactor::new().unwrap();
        let opened = Directory::open(directory.path()).unwrap();
        for contents in
            ["", "{", r#"{"members": ["x"], "tokens": []}"#, r#"{"members": [], "tokens": ["x"]}"#]
        {
            std::fs::write(directory.path().join(NODE_FILE), contents).unwrap();
            let place = Some((&opened, NODE_FILE.to_owned()));
            let loaded = Membership::of_node(&handle, place, &Claim::Token);
            let error = loaded.err().unwrap();
            assert!(error.to_string().contains("is damaged"), "{error:#}");
            let kept = std::fs::read_to_string(directory.path().join(NODE_FILE)).unwrap();
            assert_eq!(kept, contents);
        }
    }
}

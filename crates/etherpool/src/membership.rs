//! Who joined a node or a supervisor by a token (`seal::Joining`, where the rules are), kept in a file of the state directory
//! that only root reads, as tokens are in it.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use control::api::{MembersReport, TokenReport};
use os::ReactorHandle;
use os::dir::Directory;
use runtime::Semaphore;
use seal::{Claim, Joined, Joining, Members, PublicKey, Roster, Token, TokenId, TokenRefused};
use zeroize::Zeroizing;

/// A node's file; it may have its state directory in common with a supervisor, and with targets.
pub const NODE_FILE: &str = "node-members.json";
/// A supervisor's.
const SUPERVISOR_FILE: &str = "supervisor-members.json";
/// More than a file with as many members as there may be has.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The members, and the tokens by which others become that.
pub struct Membership(Rc<Shared>);

struct Shared {
    handle: ReactorHandle,
    /// None where nothing outlives the process.
    state_dir: Option<Directory>,
    file: String,
    joining: RefCell<Joining>,
    /// The file is written by one at a time.
    writing: Rc<Semaphore>,
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
        Membership::load(
            handle,
            Some((state_dir, SUPERVISOR_FILE.to_owned())),
            Joining::of_supervisor,
        )
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
        Membership::load(handle, place, |roster| Joining::of_node(roster, claim.clone()))
    }

    fn load(
        handle: &ReactorHandle,
        place: Option<(&Directory, String)>,
        joining: impl FnOnce(Roster) -> Joining,
    ) -> anyhow::Result<Rc<Membership>> {
        let read = place.as_ref().map(|(directory, file)| read(directory, file)).transpose()?;
        let (state_dir, file) = place.unzip();
        Ok(Rc::new(Membership(Rc::new(Shared {
            handle: handle.clone(),
            state_dir: state_dir.cloned(),
            file: file.unwrap_or_default(),
            joining: RefCell::new(joining(read.unwrap_or_default())),
            writing: Semaphore::new(1),
        }))))
    }

    /// From now on another setting counts.
    pub fn set_claim(&self, claim: &Claim) {
        self.0.joining.borrow_mut().set_claim(claim.clone());
    }

    /// All members, and the tokens that are good at present.
    pub fn report(&self) -> MembersReport {
        let members = self.0.joining.borrow().roster().members().collect();
        let tokens = self.0.good_tokens();
        MembersReport { members, tokens: tokens.iter().map(report_of).collect() }
    }

    /// Takes a token, which lasts when this returns.
    ///
    /// # Errors
    /// A [`TokenRefused`] by the rules of tokens, or that it can't be kept.
    pub async fn add_token(&self, token: Token) -> anyhow::Result<()> {
        self.0.check(&token)?;
        self.0.change(|roster| roster.add_token(&token, now_seconds())).await
    }

    /// The same before anybody is heard, so that nobody is taken for a stranger who has it. Blocks.
    ///
    /// # Errors
    /// As above.
    pub fn add_token_at_start(&self, token: &Token) -> anyhow::Result<()> {
        self.0.check(token)?;
        let mut next = self.0.joining.borrow().roster().clone();
        next.add_token(token, now_seconds());
        self.0.writer(&next).and_then(|write| write())?;
        *self.0.joining.borrow_mut().roster_mut() = next;
        Ok(())
    }

    /// As [`Joining::look_at_named`].
    pub fn look_at_named(&self, named: &Token) -> bool {
        self.0.joining.borrow_mut().look_at_named(named)
    }

    /// Gives up a token: nobody joins this machine by it from now on. Whether there was one.
    pub async fn revoke_token(&self, id: TokenId) -> anyhow::Result<bool> {
        if !self.0.good_tokens().iter().any(|token| token.id() == id) {
            return Ok(false);
        }
        self.0.change(|roster| roster.spend(|token| token.id() == id, now_seconds())).await?;
        Ok(true)
    }

    /// Takes somebody for a member whom people know, without a token; it lasts when this returns.
    ///
    /// # Errors
    /// When there are as many as there may be, or it can't be kept.
    pub async fn add(&self, key: PublicKey) -> anyhow::Result<()> {
        self.0.joining.borrow().roster().check_room()?;
        self.0.change(|roster| roster.add(key)).await
    }

    /// Takes somebody for a stranger from now on, and gives up all tokens, as he may have one. Whether it was a member.
    pub async fn forget(&self, key: PublicKey) -> anyhow::Result<bool> {
        if !self.0.joining.borrow().roster().has(&key) {
            return Ok(false);
        }
        self.0.change(|roster| roster.forget(&key, now_seconds())).await?;
        Ok(true)
    }
}

impl Shared {
    /// Whether a token may be taken.
    fn check(&self, token: &Token) -> Result<(), TokenRefused> {
        self.joining.borrow().roster().check(token, now_seconds())
    }

    fn good_tokens(&self) -> Vec<Token> {
        self.joining.borrow().roster().tokens(now_seconds())
    }

    /// Changes what is known, once that lasts: what can't be kept isn't known.
    async fn change(&self, change: impl Fn(&mut Roster)) -> anyhow::Result<()> {
        let _turn = self.writing.acquire(1).await;
        let mut next = self.joining.borrow().roster().clone();
        change(&mut next);
        self.keep(&next).await?;
        // Somebody may have joined meanwhile.
        change(self.joining.borrow_mut().roster_mut());
        Ok(())
    }

    async fn keep(&self, roster: &Roster) -> anyhow::Result<()> {
        let write = self.writer(roster)?;
        self.handle.blocking(write).await?
    }

    /// What writes the file. It blocks.
    fn writer(
        &self,
        roster: &Roster,
    ) -> anyhow::Result<impl FnOnce() -> anyhow::Result<()> + Send + 'static> {
        let (name, state_dir) = (self.file.clone(), self.state_dir.clone());
        let text = Zeroizing::new(serde_json::to_vec_pretty(roster)?);
        Ok(move || {
            let Some(state_dir) = state_dir else { return Ok(()) };
            let written = state_dir.replace(OsStr::new(&name), &text);
            written.with_context(|| format!("cannot write {}", state_dir.path_of(&name).display()))
        })
    }
}

impl Members for Membership {
    fn has(&self, key: &PublicKey) -> bool {
        self.0.joining.borrow().has(key)
    }

    fn is_own(&self, key: &PublicKey, is_named: bool) -> bool {
        self.0.joining.borrow().is_own(key, is_named)
    }

    fn tokens(&self) -> Vec<Token> {
        self.0.joining.borrow().tokens(now_seconds())
    }

    fn tokens_for(&self, key: &PublicKey) -> Vec<Token> {
        self.0.joining.borrow().tokens_for(key, now_seconds())
    }

    fn joined(&self, key: PublicKey, by: &Token) {
        let shared = Rc::clone(&self.0);
        let joined = shared.joining.borrow_mut().join(key, by, now_seconds());
        match joined {
            Joined::Refused(full) => return tracing::error!(%key, "{full}"),
            Joined::Before => return,
            Joined::Anew => tracing::info!(%key, "a machine has joined, by a token"),
            Joined::Again => {}
        }
        let runtime = shared.handle.runtime().clone();
        runtime.spawn(async move {
            let _turn = shared.writing.acquire(1).await;
            let roster = shared.joining.borrow().roster().clone();
            if let Err(error) = shared.keep(&roster).await {
                tracing::error!(%key, "it has to join again after the next start: {error:#}");
            }
        });
    }
}

fn read(directory: &Directory, file: &str) -> anyhow::Result<Roster> {
    let path = directory.path_of(file);
    let read = directory.read(file, FILE_BYTES_MAX);
    let read = read.with_context(|| format!("cannot read {}", path.display()))?;
    let Some(text) = read.map(Zeroizing::new) else { return Ok(Roster::default()) };
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
            assert!(!membership.has(&KEY) && membership.look_at_named(&known));
            membership.joined(KEY, &known);
            assert!(membership.has(&KEY));
            assert!(!membership.look_at_named(&known) && Members::tokens(&*membership).is_empty());
            // The answer may have been lost, to who joined by it, and by that alone.
            assert_eq!(membership.tokens_for(&KEY), [known]);
            assert!(membership.tokens_for(&OTHER).is_empty());
        });
        let path = directory.path().join(NODE_FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        with(&directory, Claim::Token, async move |membership| {
            assert!(
                membership.has(&KEY)
                    && !membership.has(&OTHER)
                    && !membership.look_at_named(&token)
            );
            membership.add_token(token.clone()).await.unwrap();
            assert_eq!(Members::tokens(&*membership), *std::slice::from_ref(&token));
            assert!(membership.revoke_token(token.id()).await.unwrap());
            assert!(!membership.revoke_token(token.id()).await.unwrap());
            membership.add_token(token.clone()).await.unwrap();
            assert!(!membership.forget(OTHER).await.unwrap());
            assert!(membership.look_at_named(&token), "nobody was forgotten");
            assert!(membership.forget(KEY).await.unwrap());
            assert!(!membership.forget(KEY).await.unwrap());
            assert!(!membership.look_at_named(&token));
            membership.add(OTHER).await.unwrap();
        });
        with(&directory, Claim::Token, async move |membership| {
            assert!(!membership.has(&KEY) && Members::tokens(&*membership).is_empty());
            assert!(membership.has(&OTHER), "it was added by hand");
        });
    }

    fn why(refused: anyhow::Result<()>) -> Option<TokenRefused> {
        refused.err()?.downcast().ok()
    }

    #[test]
    fn tokens_end_and_are_few() {
        let directory = tempfile::tempdir().unwrap();
        with(&directory, Claim::Token, async move |membership| {
            let past = Token::new([1; 16], now_seconds());
            let refused = membership.add_token(past.clone()).await;
            assert_eq!(why(refused), Some(TokenRefused::Expired));
            membership.0.joining.borrow_mut().roster_mut().add_token(&past, 0);
            assert_eq!(membership.report(), MembersReport::default());
            for _ in 0..seal::TOKENS_MAX {
                membership.add_token(make_token(Duration::from_secs(60)).unwrap()).await.unwrap();
            }
            let again = Members::tokens(&*membership).remove(0);
            membership.add_token(again).await.unwrap();
            let one_more = make_token(Duration::from_secs(60)).unwrap();
            let refused = membership.add_token_at_start(&one_more);
            assert_eq!(why(refused), Some(TokenRefused::TooMany));
            let refused = membership.add_token(one_more).await;
            assert_eq!(why(refused), Some(TokenRefused::TooMany));
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

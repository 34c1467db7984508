//! Who belongs to a machine's cluster beside those that its configuration names: machines that have proved to it, by a token
//! that both had, that somebody wanted them together. The rules of that; the file that keeps a [`Roster`], and the clock by
//! which tokens end, are whose it is.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::claim::Claim;
use crate::key::PublicKey;
use crate::token::{TOKENS_MAX, Token, TokenId};

/// Members of one machine.
const MEMBERS_MAX: usize = 4096;

/// What outlives the process. Times are seconds since 1970.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roster {
    members: BTreeSet<PublicKey>,
    tokens: Vec<Token>,
    /// Tokens that were used up or given up, and when they end: a configuration that still names one says nothing new.
    #[serde(default)]
    spent: BTreeMap<TokenId, u64>,
    /// By whom those were used up that were. Absent where it is empty, as former versions know nothing of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    users: BTreeMap<TokenId, PublicKey>,
}

/// Why a token isn't taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// Its time is over, by this machine's clock.
    #[error(
        "the token has expired, by the clock of this machine; make another one on the supervisor: etherpool token create"
    )]
    Expired,
    /// There are as many as there may be.
    #[error("{TOKENS_MAX} tokens are good already; one of them does for any number of machines")]
    TooMany,
}

/// There are as many members as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there are {MEMBERS_MAX} members already; forget some: etherpool key forget")]
pub struct TooManyMembers;

impl Roster {
    /// The members, ascending.
    pub fn members(&self) -> impl Iterator<Item = PublicKey> {
        self.members.iter().copied()
    }

    /// Whether it is one.
    pub fn has(&self, key: &PublicKey) -> bool {
        self.members.contains(key)
    }

    /// The tokens that are good at this time.
    pub fn tokens(&self, now: u64) -> Vec<Token> {
        let is_good = |token: &&Token| token.until_seconds() > now;
        self.tokens.iter().filter(is_good).cloned().collect()
    }

    fn is_spent(&self, token: &Token) -> bool {
        self.spent.contains_key(&token.id())
    }

    /// Whether a token may be taken.
    pub fn check(&self, token: &Token, now: u64) -> Result<(), TokenRefused> {
        if token.until_seconds() <= now {
            return Err(TokenRefused::Expired);
        }
        let tokens = self.tokens(now);
        let is_full = tokens.len() >= TOKENS_MAX && !tokens.contains(token);
        if is_full { Err(TokenRefused::TooMany) } else { Ok(()) }
    }

    /// Takes a token that was [checked](Roster::check), also one that was spent.
    pub fn add_token(&mut self, token: &Token, now: u64) {
        self.tokens.retain(|known| known != token && known.until_seconds() > now);
        self.tokens.push(token.clone());
        self.spent.remove(&token.id());
        self.users.remove(&token.id());
    }

    /// These tokens are good no more.
    pub fn spend(&mut self, is_meant: impl Fn(&Token) -> bool, now: u64) {
        self.spent.retain(|_, until| *until > now);
        for token in self.tokens.extract_if(.., |token| is_meant(token)) {
            self.spent.insert(token.id(), token.until_seconds());
        }
        self.users.retain(|token, _| self.spent.contains_key(token));
    }

    /// Whether there is room for another member.
    pub fn check_room(&self) -> Result<(), TooManyMembers> {
        if self.members.len() < MEMBERS_MAX { Ok(()) } else { Err(TooManyMembers) }
    }

    /// Takes somebody for a member.
    pub fn add(&mut self, key: PublicKey) {
        self.members.insert(key);
    }

    /// Takes a member for a stranger from now on, and gives up all tokens, as it may have one.
    pub fn forget(&mut self, key: &PublicKey, now: u64) {
        self.members.remove(key);
        self.users.retain(|_, user| user != key);
        self.spend(|_| true, now);
    }
}

/// One end of joining: a machine's roster, and what goes by it while its process runs.
pub struct Joining {
    roster: Roster,
    claim: Claim,
    /// A token does for one machine here: who has learned of it on another one that joined gets nowhere with it.
    uses_tokens_up: bool,
    /// By which tokens members came in, of those that this process knows: the answer may have been lost, and then they come
    /// by them again.
    used: Vec<(PublicKey, Token)>,
}

/// What became of somebody who proved a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// He is a member from now on: the roster is to be kept.
    Anew,
    /// He was one before, and a token is used up: the roster is to be kept.
    Again,
    /// Nothing that wasn't so before.
    Before,
    /// There is no room for him.
    Refused(TooManyMembers),
}

impl Joining {
    /// A supervisor's, to which any number of nodes may join by a token.
    pub fn of_supervisor(roster: Roster) -> Joining {
        Joining { roster, claim: Claim::Token, uses_tokens_up: false, used: Vec::new() }
    }

    /// A node's, which joins supervisors, each by a token of its own.
    pub fn of_node(roster: Roster, claim: Claim) -> Joining {
        Joining { roster, claim, uses_tokens_up: true, used: Vec::new() }
    }

    /// From now on another setting counts.
    pub fn set_claim(&mut self, claim: Claim) {
        self.claim = claim;
    }

    /// What is known.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The same, to be changed by people's word.
    pub fn roster_mut(&mut self) -> &mut Roster {
        &mut self.roster
    }

    /// Looks at a token that the configuration names, at the start and whenever that is read: whether it is to be taken.
    /// One that was used up here is known again, for who did.
    pub fn look_at_named(&mut self, named: &Token) -> bool {
        if let Some(user) = self.roster.users.get(&named.id())
            && !self.used.iter().any(|(_, token)| token == named)
        {
            self.used.push((*user, named.clone()));
        }
        !self.roster.is_spent(named)
    }

    /// As [`Members::has`](crate::Members::has).
    pub fn has(&self, key: &PublicKey) -> bool {
        self.claim == Claim::Token && self.roster.has(key)
    }

    /// As [`Members::is_own`](crate::Members::is_own).
    pub fn is_own(&self, key: &PublicKey, is_named: bool) -> bool {
        match &self.claim {
            Claim::Token => is_named,
            Claim::Keys(keys) => keys.contains(key),
            Claim::Anyone => true,
        }
    }

    /// As [`Members::tokens`](crate::Members::tokens).
    pub fn tokens(&self, now: u64) -> Vec<Token> {
        if self.claim == Claim::Token { self.roster.tokens(now) } else { Vec::new() }
    }

    /// As [`Members::tokens_for`](crate::Members::tokens_for).
    pub fn tokens_for(&self, key: &PublicKey, now: u64) -> Vec<Token> {
        let mut tokens = self.tokens(now);
        let own =
            self.used.iter().filter(|(user, token)| user == key && token.until_seconds() > now);
        tokens.extend(own.filter(|_| self.has(key)).map(|(_, token)| token.clone()));
        tokens
    }

    /// As [`Members::joined`](crate::Members::joined). It counts at once: the session by which it was proved is opened now.
    pub fn join(&mut self, key: PublicKey, by: &Token, now: u64) -> Joined {
        let is_new = !self.roster.has(&key);
        if is_new && let Err(full) = self.roster.check_room() {
            return Joined::Refused(full);
        }
        self.roster.add(key);
        let uses_up = self.uses_tokens_up && self.roster.tokens.contains(by);
        if uses_up {
            self.roster.spend(|token| token == by, now);
            self.roster.users.insert(by.id(), key);
            self.used.push((key, by.clone()));
        }
        match (is_new, uses_up) {
            (true, _) => Joined::Anew,
            (false, true) => Joined::Again,
            (false, false) => Joined::Before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PublicKey = PublicKey([1; 32]);
    const OTHER: PublicKey = PublicKey([2; 32]);

    fn with_token(token: &Token) -> Roster {
        let mut roster = Roster::default();
        roster.add_token(token, 0);
        roster
    }

    #[test]
    fn a_node_uses_a_token_up_and_a_supervisor_keeps_it() {
        let token = Token::new([7; 16], 600);
        let mut node = Joining::of_node(with_token(&token), Claim::Token);
        assert_eq!(node.join(KEY, &token, 10), Joined::Anew);
        assert!(node.has(&KEY) && node.roster().is_spent(&token) && node.tokens(10).is_empty());
        // The answer may have been lost, to who joined by it, and by that alone, while it is good.
        assert_eq!(node.tokens_for(&KEY, 10), std::slice::from_ref(&token));
        assert!(node.tokens_for(&OTHER, 10).is_empty() && node.tokens_for(&KEY, 600).is_empty());
        assert_eq!(node.join(KEY, &token, 10), Joined::Before);

        let mut supervisor = Joining::of_supervisor(with_token(&token));
        assert_eq!(supervisor.join(KEY, &token, 10), Joined::Anew);
        assert_eq!(supervisor.join(OTHER, &token, 10), Joined::Anew);
        assert_eq!(supervisor.tokens(599), std::slice::from_ref(&token));
        assert!(supervisor.tokens(600).is_empty());
        supervisor.roster_mut().forget(&KEY, 10);
        assert!(!supervisor.has(&KEY) && supervisor.has(&OTHER));
        assert!(supervisor.tokens(10).is_empty(), "who is forgotten may have it");
    }

    #[test]
    fn a_token_that_is_named_still_does_for_whom_it_did() {
        let token = Token::new([7; 16], 600);
        let mut node = Joining::of_node(with_token(&token), Claim::Token);
        assert!(node.look_at_named(&token));
        node.join(KEY, &token, 10);
        // The answer is lost, and the node begins anew.
        let mut node = Joining::of_node(node.roster().clone(), Claim::Token);
        assert!(
            node.tokens_for(&KEY, 10).is_empty(),
            "it keeps nothing by which anybody could join"
        );
        assert!(!node.look_at_named(&token) && !node.look_at_named(&token));
        assert_eq!(node.tokens_for(&KEY, 10), std::slice::from_ref(&token));
        assert!(node.tokens_for(&OTHER, 10).is_empty() && node.tokens_for(&KEY, 600).is_empty());
        assert_eq!(node.join(KEY, &token, 10), Joined::Before);
        // Who is forgotten, or whose token people gave up, has no way back by it.
        node.roster_mut().forget(&KEY, 10);
        let mut node = Joining::of_node(node.roster().clone(), Claim::Token);
        assert!(!node.look_at_named(&token) && node.tokens_for(&KEY, 10).is_empty());
        let mut given_up = with_token(&token);
        given_up.add(KEY);
        given_up.spend(|_| true, 10);
        let mut node = Joining::of_node(given_up, Claim::Token);
        assert!(!node.look_at_named(&token) && node.tokens_for(&KEY, 10).is_empty());
    }

    #[test]
    fn a_member_comes_in_by_another_token_again() {
        let [first, second] = [7, 8].map(|number| Token::new([number; 16], 600));
        let mut node = Joining::of_node(with_token(&first), Claim::Token);
        node.join(KEY, &first, 10);
        node.roster_mut().add_token(&second, 20);
        assert_eq!(node.join(KEY, &second, 20), Joined::Again);
        assert!(node.roster().is_spent(&second));
    }

    #[test]
    fn what_is_spent_is_forgotten_once_it_ends() {
        let [first, second] = [600, 1200].map(|until| Token::new([7; 16], until));
        let mut roster = with_token(&first);
        roster.spend(|_| true, 10);
        roster.add_token(&second, 700);
        roster.spend(|_| true, 700);
        assert!(!roster.is_spent(&first) && roster.is_spent(&second));
        assert_eq!(roster.check(&first, 700), Err(TokenRefused::Expired));
        assert_eq!(roster.check(&second, 700), Ok(()));
    }
}

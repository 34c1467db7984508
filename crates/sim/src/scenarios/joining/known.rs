//! Whom a machine knows: the production rules of joining, with a file that takes its time and outlives the process.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use runtime::{Handle, Semaphore};
use seal::{Joined, Joining, Members, PublicKey, Roster, Token};

/// The longest that it takes until a file is kept.
const WRITE_MS_MAX: u64 = 40;

/// A file that is replaced whole or not at all.
pub type File = Rc<RefCell<Roster>>;

/// What a running process knows.
pub struct Known(Rc<Shared>);

struct Shared {
    handle: Handle,
    file: File,
    joining: RefCell<Joining>,
    writing: Rc<Semaphore>,
}

impl Known {
    /// What the file knows.
    pub fn read(handle: &Handle, file: &File, of: impl FnOnce(Roster) -> Joining) -> Rc<Known> {
        Rc::new(Known(Rc::new(Shared {
            handle: handle.clone(),
            file: Rc::clone(file),
            joining: RefCell::new(of(file.borrow().clone())),
            writing: Semaphore::new(1),
        })))
    }

    /// The time by which tokens end.
    pub fn now(&self) -> u64 {
        self.0.handle.calendar().as_secs()
    }

    /// What is known at present.
    pub fn roster(&self) -> Roster {
        self.0.joining.borrow().roster().clone()
    }

    /// Takes the token that a configuration names, before anybody is heard, unless it says nothing new.
    pub fn take_first(&self, token: &Token) {
        let mut joining = self.0.joining.borrow_mut();
        let (is_new, now) = (joining.look_at_named(token), self.now());
        if is_new && joining.roster().check(token, now).is_ok() {
            joining.roster_mut().add_token(token, now);
            self.0.file.replace(joining.roster().clone());
        }
    }

    /// Changes it by somebody's word, once that lasts.
    pub async fn change(&self, change: impl Fn(&mut Roster, u64)) {
        let _turn = self.0.writing.acquire(1).await;
        let mut next = self.roster();
        change(&mut next, self.now());
        self.write(next).await;
        change(self.0.joining.borrow_mut().roster_mut(), self.now());
    }

    async fn write(&self, roster: Roster) {
        self.0.handle.sleep(Duration::from_millis(self.0.handle.random_below(WRITE_MS_MAX))).await;
        self.0.file.replace(roster);
    }
}

/// As the binary has it (`membership`).
impl Members for Known {
    fn has(&self, key: &PublicKey) -> bool {
        self.0.joining.borrow().has(key)
    }

    fn is_own(&self, key: &PublicKey, is_named: bool) -> bool {
        self.0.joining.borrow().is_own(key, is_named)
    }

    fn tokens(&self) -> Vec<Token> {
        self.0.joining.borrow().tokens(self.now())
    }

    fn tokens_for(&self, key: &PublicKey) -> Vec<Token> {
        self.0.joining.borrow().tokens_for(key, self.now())
    }

    fn joined(&self, key: PublicKey, by: &Token) {
        let joined = self.0.joining.borrow_mut().join(key, by, self.now());
        if !matches!(joined, Joined::Anew | Joined::Again) {
            return;
        }
        let known = Known(Rc::clone(&self.0));
        self.0.handle.spawn(async move {
            let _turn = known.0.writing.acquire(1).await;
            known.write(known.roster()).await;
        });
    }
}

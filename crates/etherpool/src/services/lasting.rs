//! What is wrong for as long as it lasts: in the log when it is new, and among the warnings of `status` until it is over.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// All that is wrong with one thing, by what is.
pub struct Lasting {
    log: fn(&str),
    all: Mutex<BTreeMap<String, String>>,
}

impl Lasting {
    /// Nothing yet; what is new is logged so.
    pub fn logged(log: fn(&str)) -> Lasting {
        Lasting { log, all: Mutex::default() }
    }

    /// For people.
    pub fn warnings(&self) -> Vec<String> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// How that is now, for people.
    pub fn set(&self, what: &str, why: Option<String>) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(why) = why else {
            all.remove(what);
            return;
        };
        if all.get(what) != Some(&why) {
            (self.log)(&why);
            all.insert(what.to_owned(), why);
        }
    }

    /// Nothing is wrong any more with what isn't there.
    pub fn keep(&self, is_there: impl Fn(&str) -> bool) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|what, _| is_there(what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_as_long_as_it_is() {
        let lasting = Lasting::logged(|_| {});
        lasting.set("a", Some("a is full".to_owned()));
        lasting.set("b", Some("b is away".to_owned()));
        lasting.set("a", Some("a is fuller".to_owned()));
        assert_eq!(lasting.warnings(), ["a is fuller", "b is away"]);
        lasting.set("a", None);
        assert_eq!(lasting.warnings(), ["b is away"]);
        lasting.keep(|what| what != "b");
        assert!(lasting.warnings().is_empty());
    }
}

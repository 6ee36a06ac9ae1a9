//! Whether what a thread does is still wanted: whoever asked may be gone while a write waits for space, and may have asked again
//! elsewhere. Then it must not be done later.

use std::cell::RefCell;

type IsWanted = Box<dyn Fn() -> bool>;

thread_local!(static IS_WANTED: RefCell<Option<IsWanted>> = const { RefCell::new(None) });

/// What this thread does from now on is wanted as long as `is_wanted` says so.
pub fn is_wanted_while(is_wanted: impl Fn() -> bool + 'static) {
    IS_WANTED.replace(Some(Box::new(is_wanted)));
}

/// Whether what this thread does is still wanted; it is where nothing else was said.
pub fn is_wanted() -> bool {
    IS_WANTED.with_borrow(|is_wanted| is_wanted.as_ref().is_none_or(|is_wanted| is_wanted()))
}

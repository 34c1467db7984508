//! The one executor of the project: single-threaded, and without a clock of its own.
//!
//! The pool engine and the drivers of the protocol cores are `async` code that is given time,
//! randomness and the right to spawn by a [`Handle`]. In production the reactor of the `os` crate
//! turns the crank: it tells the time, runs what is ready, and sleeps until
//! [`Executor::next_deadline`]. In the simulator virtual time does, and one seed decides the order
//! in which ready tasks run, so that a run is its seed. There is no second engine for tests.

mod event_queue;
mod executor;
mod notify;
mod timeout;

pub use event_queue::EventQueue;
pub use executor::{Executor, Handle, Order};
pub use notify::{Notified, Notify, Permit, Semaphore};
pub use timeout::{Elapsed, timeout};

//! How much an export, and each of its clients, may do in a second.

/// A rate; what isn't named is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Plain commands and sessions' reads, writes and flushes.
    pub requests_per_second: Option<u64>,
    /// Bytes read and written.
    pub bytes_per_second: Option<u64>,
}

/// The limits of an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// For all clients together.
    pub export: Rate,
    /// For each client, by its Ethernet address.
    pub client: Rate,
}

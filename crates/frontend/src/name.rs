//! What a volume is called, in a form that is safe as a part of paths and mount options.

use std::fmt;
use std::str::FromStr;

use block::NAME_BYTES_MAX;

/// `POOL/VOL`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeName {
    pool: String,
    volume: String,
}

/// Neither letters, digits, `-`, `_` and `.` only, nor short, nor without a leading dot or dash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name of a volume: POOL/VOL, each of 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.', \
     beginning with a letter or digit"
)]
pub struct InvalidName(pub String);

impl VolumeName {
    /// The volume `volume` of `pool`.
    pub fn new(pool: &str, volume: &str) -> Result<VolumeName, InvalidName> {
        if is_part(pool) && is_part(volume) {
            return Ok(VolumeName { pool: pool.to_owned(), volume: volume.to_owned() });
        }
        Err(InvalidName(format!("{pool}/{volume}")))
    }

    /// The pool's name.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The volume's name in its pool.
    pub fn volume(&self) -> &str {
        &self.volume
    }
}

impl FromStr for VolumeName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<VolumeName, InvalidName> {
        let (pool, volume) = text.split_once('/').ok_or_else(|| InvalidName(text.to_owned()))?;
        VolumeName::new(pool, volume)
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.volume)
    }
}

fn is_part(part: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    part.len() <= NAME_BYTES_MAX
        && part.bytes().all(allowed)
        && part.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_walk_through_paths_are_refused() {
        for bad in ["", "a", "a/", "/b", "../b", "a/..", "a/b/c", "a/.b", "a b/c", "-a/b", "a,b/c"]
        {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad}");
        }
        assert!("a".repeat(49).as_str().parse::<VolumeName>().is_err());
        let good: Result<VolumeName, _> = "cluster/hyper-space_1.0".parse();
        assert_eq!(good.map(|name| name.to_string()), Ok("cluster/hyper-space_1.0".to_owned()));
    }
}

//! Names with `*` for any run of characters, as configurations have them for interfaces and disks.

/// Whether a name is one of those that a pattern means.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut rest) = name.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = tail.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    // The earliest place of each part leaves most to those behind it.
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, name) in [
            ("sd*", "sda"),
            ("*", ""),
            ("nvme*n1", "nvme0n1"),
            ("a*b*c", "a1b2b3c"),
            ("*WD*-1", "xWDy-0-1"),
            ("é*", "éa"),
            ("", ""),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("sd*", "vda"), ("sda", "sdaa"), ("n*1", "n12"), ("ab*ba", "aba"), ("a*b*c", "acb")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        // Many stars cost no more than their number times the name's length.
        assert!(!matches(&"*a".repeat(1000), &"b".repeat(1000)));
    }
}

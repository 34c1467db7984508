//! Names of files as strangers ask for them. What comes out of here is a relative path that can't leave the directory
//! it is looked up in, unless links within it do.

use std::fmt;

/// Bytes that a name may have as it is asked for: a path component of Linux can't have more either.
const NAME_BYTES_MAX: usize = 255;

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing is left of it.
    #[error("the name is empty")]
    Empty,
    /// More than 255 bytes.
    #[error("the name has more than {NAME_BYTES_MAX} bytes")]
    Long,
    /// Not UTF-8, or with control characters.
    #[error("the name is not plain text")]
    NotText,
    /// It has a component `..`.
    #[error("the name has a '..'")]
    Parent,
}

/// The relative path of a file: components divided by `/`, none of them empty, `.` or `..`, and none with a backslash
/// or a control character.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// From a name as it was asked for. Some ROMs begin it with a `/`, and some divide it by backslashes.
    pub fn parse(asked: &[u8]) -> Result<Name, BadName> {
        if asked.len() > NAME_BYTES_MAX {
            return Err(BadName::Long);
        }
        let text = std::str::from_utf8(asked).map_err(|_| BadName::NotText)?;
        if text.chars().any(char::is_control) {
            return Err(BadName::NotText);
        }
        let mut path = String::with_capacity(text.len());
        for component in text.split(['/', '\\']) {
            match component {
                "" | "." => continue,
                // Taken back nowhere, not even where it would stay inside: who asks so tries something.
                ".." => return Err(BadName::Parent),
                _ => {}
            }
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(component);
        }
        if path.is_empty() { Err(BadName::Empty) } else { Ok(Name(path)) }
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its parts, at least one.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_become_plain_relative_paths() {
        for (asked, path) in [
            ("ipxe.efi", "ipxe.efi"),
            ("/ipxe.efi", "ipxe.efi"),
            ("///x//ipxe.efi", "x/ipxe.efi"),
            ("\\Boot\\x64\\wdsnbp.com", "Boot/x64/wdsnbp.com"),
            ("./a/./b/.", "a/b"),
            ("a/b/", "a/b"),
            ("C:\\a", "C:/a"),
            ("...", "..."),
            ("..a/b..", "..a/b.."),
            (".hidden", ".hidden"),
            ("with space/ü", "with space/ü"),
            ("%2e%2e/x", "%2e%2e/x"),
        ] {
            assert_eq!(Name::parse(asked.as_bytes()).unwrap().as_str(), path, "{asked}");
        }
    }

    #[test]
    fn what_could_leave_the_directory_is_refused() {
        for asked in [
            "..",
            "../",
            "../etc/passwd",
            "/../etc/passwd",
            "..\\",
            "..\\windows\\system32",
            "\\..\\x",
            "a/..",
            "a/../b",
            "a/../../b",
            "a\\..\\..\\b",
            "a/..\\b",
            "a\\../b",
            "a//../b",
            "./../b",
            "//..//b",
        ] {
            assert_eq!(Name::parse(asked.as_bytes()), Err(BadName::Parent), "{asked}");
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for asked in [
            &b"a\0b"[..],
            b"\0",
            b"a\nb",
            b"a\rb",
            b"\x1b[2J",
            b"a\x7f",
            b"a\xff",
            b"\xc0\xae\xc0\xae/x",
            "a\u{85}b".as_bytes(),
        ] {
            assert_eq!(Name::parse(asked), Err(BadName::NotText), "{asked:?}");
        }
        for asked in ["", "/", "//", ".", "./", "\\", "/./\\."] {
            assert_eq!(Name::parse(asked.as_bytes()), Err(BadName::Empty), "{asked}");
        }
        assert_eq!(Name::parse(&[b'a'; 255]).unwrap().as_str().len(), 255);
        assert_eq!(Name::parse(&[b'a'; 256]), Err(BadName::Long));
        assert_eq!(Name::parse(&[b'/'; 256]), Err(BadName::Long));
    }

    proptest! {
        #[test]
        fn whatever_comes_out_stays_inside(asked in "[a.\\\\/ü\u{1}]{0,20}") {
            let Ok(name) = Name::parse(asked.as_bytes()) else { return Ok(()) };
            let path = std::path::Path::new(name.as_str());
            let plain = |part| matches!(part, std::path::Component::Normal(_));
            prop_assert!(path.is_relative() && path.components().all(plain));
            let parts: Vec<&str> = name.components().collect();
            prop_assert_eq!(parts.join("/"), name.as_str());
            let bad = |part: &&str| part.is_empty() || part.contains(['\\', '\u{1}']);
            prop_assert!(!parts.iter().any(bad));
            prop_assert_eq!(Name::parse(name.as_str().as_bytes()), Ok(name));
        }
    }
}

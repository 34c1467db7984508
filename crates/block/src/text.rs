//! Types that are text wherever people or other processes meet them: on command lines, in files, in
//! JSON. Each is written and read by one pair of functions, `Display` and `FromStr`.

/// Whether a character has no shape of its own, and changes how others stand: marks, embeddings, overrides and isolates
/// of direction (UAX #9), spaces and joiners without width, separators of lines, annotations.
pub fn is_format(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
    )
}

/// A text for people's eyes. What was read off disks and out of frames may be anybody's: nothing of it moves the cursor, or hides
/// or reorders what stands beside it.
pub fn plain(text: &str) -> String {
    let is_harmless = |c: char| c == '\n' || !c.is_control() && !is_format(c);
    let shown = |c: char| if is_harmless(c) { c } else { char::REPLACEMENT_CHARACTER };
    text.chars().map(shown).collect()
}

/// Not one of the words that a type has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{word}' is not known here: use {}", .known.join(" or "))]
pub struct UnknownWord {
    /// What was said.
    pub word: String,
    /// What could have been said.
    pub known: &'static [&'static str],
}

/// Gives an enum a word for each of its values: `FromStr`, `Display`, `name`, and all of them as `ALL`.
#[macro_export]
macro_rules! words {
    ($type:ident { $($value:ident = $word:literal),+ $(,)? }) => {
        impl $type {
            /// All of them.
            pub const ALL: [$type; [$($word),+].len()] = [$($type::$value),+];

            /// Its word.
            pub fn name(self) -> &'static str {
                match self { $($type::$value => $word,)+ }
            }
        }

        impl ::std::str::FromStr for $type {
            type Err = $crate::UnknownWord;

            fn from_str(text: &str) -> ::std::result::Result<$type, $crate::UnknownWord> {
                match text {
                    $($word => Ok($type::$value),)+
                    _ => Err($crate::UnknownWord { word: text.to_owned(), known: &[$($word),+] }),
                }
            }
        }

        impl ::std::fmt::Display for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

/// Has types written and read by serde as what `Display` writes and `FromStr` reads, so that a text
/// is checked wherever it comes in.
#[macro_export]
macro_rules! serde_as_text {
    ($($type:ty),+) => {$(
        impl ::serde::Serialize for $type {
            fn serialize<S: ::serde::Serializer>(
                &self,
                serializer: S,
            ) -> ::std::result::Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $type {
            fn deserialize<D: ::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> ::std::result::Result<$type, D::Error> {
                let text = <::std::string::String as ::serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(::serde::de::Error::custom)
            }
        }
    )+};
}

//! Options as getopt(3) takes them, for a command whose users' scripts rely on that: flags in one
//! word, values in the same word or the next, options behind arguments, and `--`.

/// A command line, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Options in their order, with their values.
    pub options: Vec<(char, String)>,
    /// What is no option.
    pub operands: Vec<String>,
}

/// An option that isn't one, in getopt's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Not known.
    #[error("invalid option -- '{0}'")]
    Invalid(char),
    /// The last word, and wants a value.
    #[error("option requires an argument -- '{0}'")]
    NoValue(char),
}

/// Takes a command line apart. In `known` a letter is an option; with a colon behind it, it has a
/// value.
pub fn getopt(words: &[String], known: &str) -> Result<Options, OptionError> {
    let mut found = Options::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            found.operands.extend(words.cloned());
            break;
        }
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            found.operands.push(word.clone());
            continue;
        };
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            let at = known.find(letter).filter(|_| letter != ':');
            let at = at.ok_or(OptionError::Invalid(letter))?;
            if !known[at + letter.len_utf8()..].starts_with(':') {
                found.options.push((letter, String::new()));
                continue;
            }
            let rest = letters.as_str();
            let value = match rest.is_empty() {
                false => rest.to_owned(),
                true => words.next().cloned().ok_or(OptionError::NoValue(letter))?,
            };
            found.options.push((letter, value));
            break;
        }
    }
    Ok(found)
}

/// A number as atoi(3) reads it: what isn't one counts as zero.
pub fn atoi(text: &str) -> i64 {
    let text = text.trim_start();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse::<i64>().map_or(0, |number| sign * number)
}

/// A number as strtoll(3) reads it, with its base in front of it; `None` where it finds no digit.
pub fn strtoll(text: &str) -> Option<i64> {
    let text = text.trim_start();
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let hexadecimal = rest
        .strip_prefix("0x")
        .or_else(|| rest.strip_prefix("0X"))
        .filter(|digits| digits.starts_with(|c: char| c.is_ascii_hexdigit()));
    let (base, digits) = match hexadecimal {
        Some(digits) => (16, digits),
        None if rest.starts_with('0') => (8, rest),
        None => (10, rest),
    };
    let end = digits.find(|c: char| !c.is_digit(base)).unwrap_or(digits.len());
    if end == 0 {
        return None;
    }
    // Beyond its range it is the nearest number.
    let number = i64::from_str_radix(&digits[..end], base).unwrap_or(i64::MAX);
    Some(if negative { -number } else { number })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_stand_anywhere() {
        for line in ["-ds -b 16 1 2 eth0 f", "1 -b16 2 -d eth0 -s f", "-dsb 16 -- 1 2 eth0 f"] {
            let found = getopt(&words(line), "b:ds").unwrap();
            assert_eq!(found.operands, ["1", "2", "eth0", "f"], "{line}");
            let mut letters: Vec<char> = found.options.iter().map(|(letter, _)| *letter).collect();
            letters.sort_unstable();
            assert_eq!(letters, ['b', 'd', 's'], "{line}");
            assert!(found.options.contains(&('b', "16".to_owned())), "{line}");
        }
        let found = getopt(&words("-d -- -s"), "ds").unwrap();
        assert_eq!(found.operands, ["-s"]);
        assert_eq!(getopt(&words("1 - 2"), "d").unwrap().operands, ["1", "-", "2"]);
    }

    #[test]
    fn mistakes_are_in_getopts_words() {
        let error = |line: &str| getopt(&words(line), "b:d").unwrap_err().to_string();
        assert_eq!(error("-x"), "invalid option -- 'x'");
        assert_eq!(error("-d:"), "invalid option -- ':'");
        assert_eq!(error("-é"), "invalid option -- 'é'");
        assert_eq!(error("-db"), "option requires an argument -- 'b'");
    }

    #[test]
    fn numbers_as_c_reads_them() {
        for (text, number) in [("12", 12), ("12x", 12), ("x", 0), ("", 0), (" -3", -3), ("0x9", 0)]
        {
            assert_eq!(atoi(text), number, "{text}");
        }
        for (text, number) in [
            ("12", Some(12)),
            ("010", Some(8)),
            ("0x10", Some(16)),
            ("0x", Some(0)),
            ("0", Some(0)),
            ("5junk", Some(5)),
            ("-1", Some(-1)),
            ("junk", None),
            ("", None),
            ("99999999999999999999", Some(i64::MAX)),
        ] {
            assert_eq!(strtoll(text), number, "{text}");
        }
    }
}

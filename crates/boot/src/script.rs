//! What iPXE is told to do: its scripts (<https://ipxe.org/scripting>).
//!
//! Whatever goes into one comes from people or machines. A word that would end a line, begin a variable or join commands
//! is refused, not quoted: iPXE has no quotes.

use aoe_wire::ShelfSlot;

/// What a machine boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boots {
    /// Its own disk.
    Local,
    /// A disk by AoE.
    Volume(ShelfSlot),
    /// A kernel.
    Kernel {
        /// Where it is.
        kernel: Word,
        /// Its file systems in memory, one laid over the other.
        initrds: Vec<Word>,
        /// Its command line.
        arguments: Vec<Word>,
    },
}

/// A word of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word(String);

/// What iPXE would take for something else than a word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWord {
    /// Nothing, or with white space in it.
    #[error("{0:?} is empty or has white space in it")]
    NotOne(String),
    /// With a character that means something to iPXE, or can't be printed.
    #[error("{word:?} has {letter:?} in it, which iPXE would take for something else")]
    Special {
        /// The whole.
        word: String,
        /// The first such character.
        letter: char,
    },
}

impl Word {
    /// Takes a word as it is.
    pub fn new(word: impl Into<String>) -> Result<Word, NoWord> {
        let word = word.into();
        if word.is_empty() || word.contains(char::is_whitespace) {
            return Err(NoWord::NotOne(word));
        }
        // `${variable}`, `a && b`, `a || b`, `a ; b`, `# comment`, and a backslash before any of these.
        let special = |letter: &char| !letter.is_ascii_graphic() || "$&|;#\\\"'`".contains(*letter);
        match word.chars().find(special) {
            Some(letter) => Err(NoWord::Special { word, letter }),
            None => Ok(Word(word)),
        }
    }
}

/// The script for what a machine boots. It ends in an attempt of the same again where that fails: servers and cables come
/// back, and nobody stands beside the machine.
pub fn script(boots: &Boots) -> String {
    match boots {
        // Of a BIOS `exit` goes on with the next of its boot devices only where that is set so; the first disk is there.
        Boots::Local => concat!(
            "#!ipxe\n",
            "iseq ${platform} efi && exit 1 ||\n",
            "sanboot --no-describe --drive 0x80 || exit 1\n",
        )
        .into(),
        Boots::Volume(at) => repeated(&[format!("sanboot aoe:{at}")]),
        Boots::Kernel { kernel, initrds, arguments } => {
            let names: Vec<String> = (0..initrds.len()).map(|at| format!("initrd{at}")).collect();
            // Kernels with an EFI stub look for them by that where iPXE is older than Linux 5.8's way to be told.
            let named = names.iter().map(|name| format!("initrd={name}"));
            let arguments = arguments.iter().map(|word| word.0.clone());
            let words: Vec<String> =
                [kernel.0.clone()].into_iter().chain(named).chain(arguments).collect();
            let mut lines = vec![format!("kernel {}", words.join(" "))];
            let initrds = initrds.iter().zip(&names);
            lines
                .extend(initrds.map(|(initrd, name)| format!("initrd --name {name} {}", initrd.0)));
            lines.push("boot".into());
            repeated(&lines)
        }
    }
}

/// Seconds between two attempts.
const AGAIN_SECONDS: u32 = 5;

fn repeated(lines: &[String]) -> String {
    let mut script = String::from("#!ipxe\n:again\n");
    for line in lines {
        script.push_str(line);
        script.push_str(" || goto failed\n");
    }
    script.push_str(&format!(
        ":failed\necho Once more in {AGAIN_SECONDS} seconds\nimgfree\nsleep {AGAIN_SECONDS}\ngoto again\n"
    ));
    script
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn word(word: &str) -> Word {
        Word::new(word).unwrap()
    }

    #[test]
    fn nothing_in_a_word_is_a_command() {
        for fine in [
            "http://10.0.0.1:80/a%20b?mac=02:00",
            "console=ttyS0,115200n8",
            "root=UUID=1-2",
            "a(b)<c>!*~",
        ] {
            assert!(Word::new(fine).is_ok(), "{fine}");
        }
        for bad in [
            "",
            " ",
            "a b",
            "a\nboot",
            "${net0/mac}",
            "a||shell",
            "a&&b",
            "a;b",
            "#",
            "\\x",
            "\u{7f}",
            "é",
        ] {
            assert!(Word::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_fails_is_tried_again() {
        let boots = Boots::Kernel {
            kernel: word("http://10.0.0.1/vmlinuz"),
            initrds: vec![word("http://10.0.0.1/initrd")],
            arguments: vec![word("quiet"), word("panic=5")],
        };
        assert_eq!(
            script(&boots),
            "#!ipxe\n\
             :again\n\
             kernel http://10.0.0.1/vmlinuz initrd=initrd0 quiet panic=5 || goto failed\n\
             initrd --name initrd0 http://10.0.0.1/initrd || goto failed\n\
             boot || goto failed\n\
             :failed\n\
             echo Once more in 5 seconds\n\
             imgfree\n\
             sleep 5\n\
             goto again\n"
        );
        let volume = Boots::Volume("e7.3".parse().unwrap());
        assert!(script(&volume).contains("\nsanboot aoe:e7.3 || goto failed\n"));
    }
}

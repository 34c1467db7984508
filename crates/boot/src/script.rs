//! What iPXE is told to do: its scripts (<https://ipxe.org/scripting>).
//!
//! Whatever goes into one comes from people or machines. A word that would end a line, begin a variable or join commands
//! is refused, not quoted: iPXE has no quotes.

use std::fmt;
use std::net::SocketAddrV4;

use aoe_wire::{MacAddr, ShelfSlot};
use uuid::Uuid;

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

/// Where a machine has its script from, by what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where HTTP is served.
    pub http: SocketAddrV4,
    /// An address of the machine.
    pub mac: Option<MacAddr>,
    /// What its firmware says that it is.
    pub uuid: Option<Uuid>,
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "http://{}/boot.ipxe", self.http)?;
        let mac = self.mac.map(|mac| format!("mac={mac}"));
        let uuid = self.uuid.map(|uuid| format!("uuid={uuid}"));
        let said = mac.into_iter().chain(uuid);
        said.zip(['?', '&']).try_for_each(|(word, before)| write!(out, "{before}{word}"))
    }
}

impl Source {
    /// By which one that has its script asks for it again.
    fn again(&self) -> String {
        let source = self.to_string();
        let before = if source.contains('?') { '&' } else { '?' };
        format!("{source}{before}{AGAIN}=1")
    }
}

/// What is said by who asks for his script again, and needs to be told where there is none any more.
pub const AGAIN: &str = "again";

/// For who asks again, and is to boot nothing from here any more: his firmware goes on with the next of its devices.
pub const NOTHING: &str = "#!ipxe\nexit 1\n";

/// The script for what a machine boots. Where that fails it is asked for anew: images and assignments change while a machine
/// waits for them. It ends in an attempt of the same again where nobody answers: servers and cables come back, and nobody
/// stands beside the machine.
pub fn script(boots: &Boots, source: &Source) -> String {
    match boots {
        // Of a BIOS `exit` goes on with the next of its boot devices only where that is set so; the first disk is there.
        Boots::Local => concat!(
            "#!ipxe\n",
            "iseq ${platform} efi && exit 1 ||\n",
            "sanboot --no-describe --drive 0x80 || exit 1\n",
        )
        .into(),
        Boots::Volume(at) => repeated(&[format!("sanboot aoe:{at}")], source),
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
            repeated(&lines, source)
        }
    }
}

/// Seconds between two attempts.
const AGAIN_SECONDS: u32 = 5;

/// How long a boot server may be silent that is asked for the script again, in milliseconds: a volume needs none.
const SILENCE_MAX_MS: u32 = 10_000;

fn repeated(lines: &[String], source: &Source) -> String {
    let mut script = String::from("#!ipxe\n:again\n");
    for line in lines {
        script.push_str(line);
        script.push_str(" || goto failed\n");
    }
    // It takes the place of this one: scripts that call each other are one deeper each time, and there is an end to that.
    let chain = format!("chain --replace --autofree --timeout {SILENCE_MAX_MS} {}", source.again());
    script.push_str(&format!(
        ":failed\necho Once more in {AGAIN_SECONDS} seconds\nimgfree\nsleep {AGAIN_SECONDS}\n{chain} || goto again\n"
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

    fn source() -> Source {
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 7]));
        Source { http: "10.0.0.1:8069".parse().unwrap(), mac, uuid: None }
    }

    #[test]
    fn who_asks_says_what_is_known_of_him() {
        let uuid = Uuid::from_u128(7);
        let (mac, uuid) = (source().mac, Some(uuid));
        for (mac, uuid, said) in [
            (None, None, ""),
            (mac, None, "?mac=02:00:00:00:00:07"),
            (None, uuid, "?uuid=00000000-0000-0000-0000-000000000007"),
            (mac, uuid, "?mac=02:00:00:00:00:07&uuid=00000000-0000-0000-0000-000000000007"),
        ] {
            let source = Source { mac, uuid, ..source() };
            assert_eq!(source.to_string(), format!("http://10.0.0.1:8069/boot.ipxe{said}"));
        }
    }

    #[test]
    fn what_fails_is_asked_for_anew_and_tried_again() {
        let boots = Boots::Kernel {
            kernel: word("http://10.0.0.1/vmlinuz"),
            initrds: vec![word("http://10.0.0.1/initrd")],
            arguments: vec![word("quiet"), word("panic=5")],
        };
        assert_eq!(
            script(&boots, &source()),
            "#!ipxe\n\
             :again\n\
             kernel http://10.0.0.1/vmlinuz initrd=initrd0 quiet panic=5 || goto failed\n\
             initrd --name initrd0 http://10.0.0.1/initrd || goto failed\n\
             boot || goto failed\n\
             :failed\n\
             echo Once more in 5 seconds\n\
             imgfree\n\
             sleep 5\n\
             chain --replace --autofree --timeout 10000 \
             http://10.0.0.1:8069/boot.ipxe?mac=02:00:00:00:00:07&again=1 || goto again\n"
        );
        let volume = Boots::Volume("e7.3".parse().unwrap());
        let script = script(&volume, &source());
        assert!(script.contains("\nsanboot aoe:e7.3 || goto failed\n"));
        assert!(script.ends_with("&again=1 || goto again\n"));
    }
}

//! Pages of the manual, as people read them: what they are to type, what they are to do by hand, and what the page says
//! that it prints. Where that is done is the test's affair.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// What a reader does next.
#[derive(Debug, PartialEq)]
pub struct Step {
    /// At which machine.
    pub machine: String,
    /// What.
    pub deed: Deed,
}

/// Something to do.
#[derive(Debug, PartialEq)]
pub enum Deed {
    /// A command, and the lines that it prints.
    Type {
        /// With the lines that go on with it.
        typed: String,
        /// `...` is anything within a line, and alone in one any lines.
        printed: Vec<String>,
    },
    /// What no command does, and the text tells: `<!-- by hand: two off -->` beside it says so to tests.
    ByHand(String),
}

/// The scripts of a page for one place: its blocks that begin with ```` ```sh PLACE ````.
pub fn scripts(page: &str, place: &str) -> Vec<String> {
    let start = format!("```sh {place}\n");
    let blocks = page.split(&start).skip(1);
    let cut = |block: &str| block.split("\n```").next().unwrap_or_default().to_owned();
    let blocks: Vec<String> = blocks.map(cut).collect();
    assert!(!blocks.is_empty(), "the page has no block for {place}");
    blocks
}

/// The steps of a page: its blocks that begin with ```` ```console ````, where `one# ` is the prompt of machine `one`
/// and `> ` goes on with what is typed.
pub fn steps(page: &str) -> Vec<Step> {
    let (mut steps, mut is_console) = (Vec::<Step>::new(), false);
    for line in page.lines() {
        match line {
            "```console" => is_console = true,
            "```" => is_console = false,
            _ if is_console => read_line(&mut steps, line),
            _ => steps.extend(by_hand(line)),
        }
    }
    steps
}

fn by_hand(line: &str) -> Option<Step> {
    let words = line.strip_prefix("<!-- by hand: ")?.strip_suffix(" -->").expect("one line");
    let (machine, deed) = words.split_once(' ').expect("a machine, and what is done with it");
    Some(Step { machine: machine.to_owned(), deed: Deed::ByHand(deed.to_owned()) })
}

fn read_line(steps: &mut Vec<Step>, line: &str) {
    let prompt = line.split_once("# ").filter(|(machine, _)| {
        !machine.is_empty() && machine.bytes().all(|byte| byte.is_ascii_lowercase())
    });
    if let Some((machine, typed)) = prompt {
        let deed = Deed::Type { typed: typed.to_owned(), printed: vec![] };
        steps.push(Step { machine: machine.to_owned(), deed });
        return;
    }
    let Some(Step { deed: Deed::Type { typed, printed }, .. }) = steps.last_mut() else {
        panic!("nobody is to type '{line}'")
    };
    match line.strip_prefix('>') {
        Some(more) if printed.is_empty() => {
            write!(typed, "\n{}", more.strip_prefix(' ').unwrap_or(more)).unwrap();
        }
        _ => printed.push(line.to_owned()),
    }
}

/// How long a look is taken again and again; far more than anything takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Does all that a page says, by `act`, which says how a command ended and what it printed; fails the test with all that
/// wasn't as the page says. What only looks is looked at again until it is as the page says, as what the reader did
/// before takes its time. Where `act` can't go on it ends.
pub fn follow<E>(
    name: &str,
    page: &str,
    mut act: impl FnMut(&Step) -> Result<(i32, String), E>,
) -> Result<(), E> {
    let begun = Instant::now();
    let (mut wrong, mut token, mut commands) = (String::new(), String::new(), 0);
    for mut step in steps(page) {
        let Deed::Type { typed, printed: said } = &mut step.deed else {
            println!("[{} s] {step:?}", begun.elapsed().as_secs());
            act(&step)?;
            continue;
        };
        println!("[{} s] {}# {typed}", begun.elapsed().as_secs(), step.machine);
        let (asked, said) = (typed.clone(), std::mem::take(said));
        // It is asked for on a terminal.
        if typed == "etherpool join" {
            *typed = format!("etherpool join <<END\n{token}\nEND");
        }
        commands += 1;
        let start = Instant::now();
        let (status, printed) = loop {
            let (status, printed) = act(&step)?;
            let is_as_said = is_end(&asked, &said, status) && is_as_said(&said, &lines(&printed));
            if is_as_said || !only_looks(&asked) || start.elapsed() > LIMIT {
                break (status, printed);
            }
            std::thread::sleep(Duration::from_millis(300));
        };
        print!("{printed}");
        if asked == "etherpool token create" {
            token = printed.lines().next().unwrap_or_default().to_owned();
        }
        if !is_end(&asked, &said, status) || !is_as_said(&said, &lines(&printed)) {
            let (machine, said) = (&step.machine, said.join("\n"));
            let printed = format!("{printed}(code {status})");
            write!(wrong, "\n{machine}# {asked}\n{printed}\n--- and the page says:\n{said}\n")
                .unwrap();
        }
    }
    println!("{name}: {commands} commands, {} s", begun.elapsed().as_secs());
    assert!(wrong.is_empty(), "{name}:{wrong}");
    Ok(())
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

/// Whether a command changes nothing, so that it may be given again.
fn only_looks(typed: &str) -> bool {
    let words: Vec<_> = typed.split_whitespace().collect();
    match words[..] {
        ["etherpool", "status", ..] | ["ls" | "cat", ..] => !typed.contains('>'),
        ["corosync-quorumtool"] | ["dlm_tool", "status" | "ls"] => true,
        ["etherpool", "disk" | "pool" | "volume" | "alert", "list" | "show", ..] => true,
        ["etherpool", "pool", "import", .., "--dry-run"] => true,
        ["etherpool", "pool", "jobs" | "status", ..] => !words.contains(&"--wait"),
        _ => false,
    }
}

/// Whether a command may end so: `status` ends with 5 when it says that something is wrong and never else, other looks
/// may when something isn't well; what is refused says so.
fn is_end(typed: &str, said: &[String], status: i32) -> bool {
    let is_refused = said.iter().any(|line| line.starts_with("etherpool: "));
    let is_status = typed.starts_with("etherpool status");
    let is_wrong = is_status && said.iter().any(|line| line.ends_with(" wrong"));
    match status {
        0 => !is_refused && !is_wrong,
        5 => only_looks(typed) && is_wrong == is_status,
        _ => is_refused,
    }
}

/// Whether what was printed is what the page says.
fn is_as_said(said: &[String], printed: &[&str]) -> bool {
    match (said.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((any, rest)), _) if any == "..." => {
            (0..=printed.len()).any(|skipped| is_as_said(rest, &printed[skipped..]))
        }
        (Some((said, rest)), Some((printed, others))) => {
            is_line(said, printed) && is_as_said(rest, others)
        }
        _ => false,
    }
}

fn is_line(said: &str, printed: &str) -> bool {
    let Some((before, after)) = said.split_once("...") else { return said == printed };
    printed.strip_prefix(before).is_some_and(|rest| {
        rest.char_indices()
            .map(|(at, _)| at)
            .chain([rest.len()])
            .any(|at| is_line(after, &rest[at..]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_as_people_read_it() {
        let page = "# A\n```console\none# cat <<END\n> a\n>\n> END\na\n\ntwo# ls\n...\nx ... z\n```\ntext\n\
            <!-- by hand: two off -->\n```sh one\nfirst\n```\n```sh one\nsecond\n```\n";
        let typed = |machine: &str, typed: &str, printed: &[&str]| {
            let printed = printed.iter().map(ToString::to_string).collect();
            Step { machine: machine.into(), deed: Deed::Type { typed: typed.into(), printed } }
        };
        let steps = steps(page);
        assert_eq!(steps[0], typed("one", "cat <<END\na\n\nEND", &["a", ""]));
        assert_eq!(steps[1], typed("two", "ls", &["...", "x ... z"]));
        let by_hand = Step { machine: "two".into(), deed: Deed::ByHand("off".into()) };
        assert_eq!(steps[2..], [by_hand]);
        assert_eq!(scripts(page, "one"), ["first", "second"]);
    }

    #[test]
    fn what_is_printed_is_compared_line_by_line() {
        let said = ["...", "x ... z"].map(str::to_owned);
        assert!(is_as_said(&said, &["x y z"]) && is_as_said(&said, &["1", "2", "x  z"]));
        assert!(!is_as_said(&said, &["x y z", "more"]) && !is_as_said(&said, &["x y"]));
        assert!(!is_as_said(&[], &["what nobody said"]));
        let refused = ["etherpool: no".to_owned()];
        assert!(is_end("etherpool pool import a", &refused, 1));
        assert!(!is_end("etherpool pool import a", &refused, 0) && !is_end("mv a b", &[], 5));
        let wrong = ["... things are wrong".to_owned(), "...".to_owned()];
        assert!(is_end("etherpool status", &wrong, 5) && !is_end("etherpool status", &wrong, 0));
        assert!(is_end("etherpool status -x", &[], 0) && !is_end("etherpool status -x", &[], 5));
        assert!(is_end("etherpool disk list", &[], 5) && !is_end("etherpool disk list", &[], 6));
    }
}

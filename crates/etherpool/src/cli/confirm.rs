//! Asking before something is destroyed. Says exactly what; on no terminal it refuses unless told
//! `--yes`, so that a script never hangs on a question and never destroys by accident.

use std::io::{BufRead, IsTerminal, Write};

use control::api::Preview;
use serde::Serialize;

use super::args::Confirmation;
use super::output::{plain, print_json};
use super::{Context, Failure};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Go,
    ShowOnly,
    Ask,
    Refuse,
}

fn decide(confirmation: Confirmation, interactive: bool) -> Decision {
    match (confirmation.dry_run, confirmation.yes, interactive) {
        (true, _, _) => Decision::ShowOnly,
        (false, true, _) => Decision::Go,
        (false, false, true) => Decision::Ask,
        (false, false, false) => Decision::Refuse,
    }
}

/// What a preview says, as a question begins.
pub fn effects(preview: &Preview) -> String {
    preview.effects.iter().map(|effect| format!("  {effect}\n")).collect()
}

/// What would happen, for programs, where nothing says it but sentences.
#[derive(Serialize)]
struct Effects<'a> {
    effects: Vec<&'a str>,
}

/// Shows `what` (whole lines) and gets a word for it; false where it was only to be shown.
pub fn confirm(context: &Context, what: &str, confirmation: Confirmation) -> Result<bool, Failure> {
    let effects = what.lines().map(str::trim).collect();
    confirm_plan(context, what, &Effects { effects }, confirmation)
}

/// The same of what there is a plan for, which is what programs are shown.
pub fn confirm_plan(
    context: &Context,
    what: &str,
    plan: &impl Serialize,
    confirmation: Confirmation,
) -> Result<bool, Failure> {
    if context.json && confirmation.dry_run {
        print_json(plan)?;
        return Ok(false);
    }
    let what = plain(what);
    let interactive = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    match decide(confirmation, interactive) {
        Decision::Go => Ok(true),
        Decision::ShowOnly => {
            println!("{what}Nothing was done (--dry-run).");
            Ok(false)
        }
        Decision::Refuse => Err(Failure::refused(
            format!("not confirmed, and there is no terminal to ask on:\n{}", what.trim_end()),
            "look at it, then give --yes",
        )),
        Decision::Ask => {
            eprint!("{what}Go on? Type yes: ");
            let _ = std::io::stderr().flush();
            let mut answer = String::new();
            std::io::stdin().lock().read_line(&mut answer).map_err(anyhow::Error::from)?;
            if answer.trim() == "yes" {
                Ok(true)
            } else {
                Err(Failure::refused("not confirmed; nothing was done", "type yes, or give --yes"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_destroyed_unasked() {
        let given = |yes, dry_run| Confirmation { yes, dry_run };
        for interactive in [false, true] {
            assert_eq!(decide(given(true, false), interactive), Decision::Go);
            assert_eq!(decide(given(true, true), interactive), Decision::ShowOnly);
            assert_eq!(decide(given(false, true), interactive), Decision::ShowOnly);
        }
        assert_eq!(decide(given(false, false), true), Decision::Ask);
        assert_eq!(decide(given(false, false), false), Decision::Refuse);
    }
}

//! Against what a TPM was told and answered, byte by byte, and against what none should answer.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const RECORDED: &str = include_str!("tpm_recorded.txt");
const SECRET: &[u8] = b"the secret half of a key as text, 44 letters";
/// To TPM2_Load, of a TPM that didn't seal it.
const FOREIGN: &[u8] = &[0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0xdf];
/// To TPM2_CreatePrimary, of a TPM whose owner has a password.
const BAD_AUTH: &[u8] = &[0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x09, 0xa2];
/// Of a TPM 1.2, which knows no such tag.
const BAD_TAG: &[u8] = &[0x00, 0xc4, 0, 0, 0, 10, 0, 0, 0, 0x1e];

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap())
        .collect()
}

/// What was said of one thing: commands, with their answers.
fn recorded(what: &str) -> VecDeque<(Vec<u8>, Vec<u8>)> {
    let said = RECORDED.split_once(&format!("[{what}]\n")).unwrap().1;
    let mut lines = said.lines().take_while(|line| !line.starts_with('['));
    let mut said = VecDeque::new();
    while let (Some(command), Some(answer)) = (lines.next(), lines.next()) {
        let (command, answer) = (command.strip_prefix("> "), answer.strip_prefix("< "));
        said.push_back((bytes(command.unwrap()), bytes(answer.unwrap())));
    }
    said
}

/// Answers as it was recorded, to nothing else than was recorded.
fn again(said: &mut VecDeque<(Vec<u8>, Vec<u8>)>) -> impl Ask {
    |command: &[u8]| {
        let (expected, answer) = said.pop_front().unwrap();
        assert_eq!(command, expected);
        Ok(Zeroizing::new(answer))
    }
}

/// Answers with these, whatever it is asked, and then no more.
fn with(answers: Vec<Vec<u8>>) -> impl Ask {
    let mut answers = answers.into_iter();
    move |_: &[u8]| answers.next().map(Zeroizing::new).ok_or(io::ErrorKind::TimedOut.into())
}

fn answers(what: &str) -> Vec<Vec<u8>> {
    recorded(what).into_iter().map(|(_, answer)| answer).collect()
}

fn sealed() -> Sealed {
    seal(&mut with(answers("seal")), SECRET).unwrap()
}

#[test]
fn a_tpm_is_told_what_it_understands_and_keeps_nothing() {
    let (mut sealing, mut unsealing) = (recorded("seal"), recorded("unseal"));
    let sealed = seal(&mut again(&mut sealing), SECRET).unwrap();
    let Kept::Tpm { public, private } = sealed.to_kept().unwrap() else { panic!("it is plain") };
    let kept = Sealed::parse(&public, &private).unwrap();
    let unsealed = unseal(&mut again(&mut unsealing), &kept).unwrap();
    assert_eq!(*unsealed, SECRET);
    // What was loaded was flushed: that was said last.
    assert!(sealing.is_empty() && unsealing.is_empty());
    let held = STANDARD.decode(private).unwrap();
    assert!(!held.windows(8).any(|part| SECRET.windows(8).any(|secret| secret == part)));
}

#[test]
fn why_a_tpm_does_nothing_is_told() {
    let primary = || answers("unseal").remove(0);
    let foreign = unseal(&mut with(vec![primary(), FOREIGN.to_vec()]), &sealed());
    assert!(matches!(foreign, Err(Error::Foreign)), "{foreign:?}");
    let refused = unseal(&mut with(vec![BAD_AUTH.to_vec()]), &sealed()).unwrap_err();
    let expected = "the TPM refuses TPM2_CreatePrimary: [TPM_RC_BAD_AUTH, session[1]]";
    assert_eq!(refused.to_string(), expected);
    let former = seal(&mut with(vec![BAD_TAG.to_vec()]), SECRET);
    assert!(matches!(former, Err(Error::Former)));
    let silent = seal(&mut with(Vec::new()), SECRET);
    assert!(matches!(silent, Err(Error::Unheard(_))));
    let long = seal(&mut with(Vec::new()), &[0; SECRET_BYTES_MAX + 1]);
    assert!(matches!(long, Err(Error::Long)));
    let error = |text: &str| Sealed::parse(text, text).err().map(|error| error.to_string());
    for text in ["", "AA=", "AAA=", "////", &STANDARD.encode([0; BYTES_MAX])] {
        assert!(error(text).is_some_and(|error| error.contains("gives out")), "{text}");
    }
}

/// Whatever becomes of the bytes of one answer, what is made of it is a secret, or an error.
#[test]
fn answers_that_are_none_are_refused() {
    for what in ["seal", "unseal"] {
        let answers = answers(what);
        for place in 0..answers.len() {
            let try_with = |answer: &[u8]| {
                let mut answers = answers.clone();
                answers[place] = answer.to_vec();
                let mut ask = with(answers);
                match what {
                    "seal" => seal(&mut ask, SECRET).is_ok(),
                    _ => unseal(&mut ask, &sealed()).is_ok(),
                }
            };
            let answer = &answers[place];
            // What is said to a flush isn't needed.
            let is_needed = answer.len() > 10;
            for len in 0..answer.len() {
                assert!(!(try_with(&answer[..len]) && is_needed), "{what} {place}: {len} bytes");
            }
            assert!(!(try_with(&[&answer[..], &[0]].concat()) && is_needed), "{what} {place}");
            for at in 0..answer.len() {
                for byte in [0, 1, 0x7f, 0x80, 0xff, answer[at] ^ 1] {
                    let mut answer = answer.clone();
                    answer[at] = byte;
                    try_with(&answer);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn hostile_answers_are_harmless(
        answers in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..6),
        has_header in any::<bool>(),
        text in ".{0,80}",
    ) {
        let answers: Vec<Vec<u8>> = answers
            .into_iter()
            .map(|body| {
                let len = body.len() as u32 + 10;
                let header = [&[0x80, 0x02][..], &len.to_be_bytes(), &[0; 4]].concat();
                if has_header { [header, body].concat() } else { body }
            })
            .collect();
        let _ = seal(&mut with(answers.clone()), SECRET);
        let _ = unseal(&mut with(answers), &sealed());
        prop_assert!(Sealed::parse(&text, &text).is_err());
    }
}

//! The bytes as what a TPM answers, one after the other: each begins with its length.
#![no_main]

use std::io;

use boot::tpm::{Sealed, seal, unseal};
use zeroize::Zeroizing;

/// What a TPM has sealed.
const SEALED: [&str; 2] = [
    "AC4ACAALAAAEUgAAABAAIF9Z7aOtWalxV1DEPP1R+43Y38pBWH98e14Crquf/sc5",
    "AKoAIIZxy20t7XM/o3u/Vt5LUgTN70IOD43WsAG70sFYFHm/ABBH/T3logutAqquYjVJxjfU1+oMYCre\
     wkSDzgvySTDm47DR/b4bXXX0a/g5WAAjyGX/xT9K5ZA94i0796pYuD6sgixOdo8jvJ4RMATOJr+7BpZb\
     gpCorxs7MG8PWryPejblE5ShB55ugD9vV1Xm5/i/QpQw8Fcld0U1kouFjye4FrWlG/ffQQ==",
];

/// Answers with these, whatever it is asked, and then no more.
fn with(mut rest: &[u8]) -> impl FnMut(&[u8]) -> io::Result<Zeroizing<Vec<u8>>> {
    move |_: &[u8]| {
        let [high, low, answers @ ..] = rest else { return Err(io::ErrorKind::TimedOut.into()) };
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(answers.len());
        let (answer, next) = answers.split_at(len);
        rest = next;
        Ok(Zeroizing::new(answer.to_vec()))
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [public, private] = SEALED;
    let sealed = Sealed::parse(public, private).expect("what a TPM has sealed");
    if let Ok(sealed) = seal(&mut with(bytes), b"a secret") {
        let _ = sealed.to_kept().expect("what was sealed can be kept");
    }
    let _ = unseal(&mut with(bytes), &sealed);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Sealed::parse(text, text);
    }
});

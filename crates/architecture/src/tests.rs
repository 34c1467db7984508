//! What must not slip through, however it is written; and the sources as they are.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;
use crate::source::Crate;

/// A crate called `name` of one file, with modules inline.
fn crate_of(name: &str, text: &str) -> Crate {
    let mut one = Crate {
        name: name.to_owned(),
        dependencies: BTreeSet::new(),
        files: BTreeMap::new(),
        modules: BTreeMap::new(),
    };
    let parsed = syn::parse_file(text).unwrap();
    let root = vec!["crate".to_owned()];
    let inside = (parsed.attrs.as_slice(), parsed.items.as_slice());
    source::load_items(&mut one, Path::new(""), Path::new("src/lib.rs"), root, inside).unwrap();
    one
}

fn faults(name: &str, text: &str) -> Vec<String> {
    rules::check(&[crate_of(name, text)])
}

#[test]
fn the_sources_are_as_the_map_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    assert_eq!(check(&root).unwrap(), Vec::<String>::new());
}

#[test]
fn no_way_of_writing_a_path_hides_the_world() {
    for text in [
        "use std::net::TcpStream;",
        "use std::{fmt, net::{self, IpAddr}};",
        "use std::{rc::Rc, time::{Duration, Instant}};",
        "use std as s; fn f() { s::fs::read(\"x\"); }",
        "use std::{self as s};",
        "use std::time as t; fn f() -> u64 { t::Instant::now().elapsed().as_secs() }",
        "use std::time::*; fn f() { let _ = Instant::now(); }",
        "use std::*; ",
        "fn f() { ::std::thread::yield_now() }",
        "fn f() { println!(\"x\") }",
        "fn f() { assert!(std::env::var(\"X\").is_ok()) }",
        "mod a { pub use std::time as clock; } fn f() { a::clock::SystemTime::now(); }",
        "mod a { pub use std::time as clock; } mod b { use super::a::clock::Instant; }",
        "macro_rules! now { () => { std::time::Instant::now() } }",
        "fn f() { use std::fs::File; }",
        "extern crate std as world;",
    ] {
        assert!(!faults("pool", text).is_empty(), "{text}");
        assert!(faults("os", text).is_empty(), "os may: {text}");
    }
}

#[test]
fn no_lot_is_drawn_that_no_seed_decides() {
    for text in [
        "fn f() { futures::select! { () = a => {} } }",
        "use futures::*; fn f() { select! { () = a => {} } }",
        "use futures::select as either; fn f() { either! { () = a => {} } }",
        "use futures::stream_select;",
        "use std::hash::RandomState;",
        "use rand::{Rng, random};",
        "fn f() { rand::rng().next_u64() }",
        "use rand::rngs::SmallRng; fn f() { SmallRng::from_os_rng(); }",
    ] {
        for name in ["pool", "sim"] {
            assert!(!faults(name, text).is_empty(), "{name}: {text}");
        }
        assert!(faults("os", text).is_empty(), "os may: {text}");
    }
    for text in [
        "use futures::future::select; fn f() { select(a, b) }",
        "fn f() { futures::select_biased! { () = a => {} } }",
        "use rand::{Rng, SeedableRng, rngs::SmallRng}; fn f() { SmallRng::seed_from_u64(1) }",
    ] {
        assert_eq!(faults("sim", text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn what_is_for_tests_only_and_what_is_pure_passes() {
    for text in [
        "#[cfg(test)] mod tests { use std::fs; }",
        "#[cfg(all(test, unix))] mod tests { use std::fs; }",
        "#[cfg(test)] use std::fs;",
        "#[cfg(test)] fn f() { std::thread::yield_now() }",
        "use std::{rc::Rc, time::Duration, io::Write};",
        "mod net { pub fn f() {} } use net::f;",
        "fn f() { my::fs::read() }",
    ] {
        assert_eq!(faults("pool", text), Vec::<String>::new(), "{text}");
    }
    assert!(!faults("pool", "#[cfg(not(test))] use std::fs;").is_empty());
}

#[test]
fn the_second_reader_of_disks_can_reach_the_engine_by_no_name() {
    let engine = "pub mod engine { pub struct Engine; pub mod io { pub fn f() {} } } pub mod format {} \
        pub use engine::Engine; ";
    for check in [
        "pub mod check { use crate::engine::io; }",
        "pub mod check { use crate::{engine, format}; }",
        "pub mod check { use crate::Engine; }",
        "pub mod check { use super::Engine as E; }",
        "pub mod check { use super::*; fn f() { engine::io::f() } }",
        "pub mod check { mod deep { use super::super::engine::io::f; } }",
        "pub mod check { fn f() { crate::engine::io::f() } }",
        "pub mod check { use crate as all; fn f() { all::engine::io::f() } }",
    ] {
        assert!(!faults("pool", &format!("{engine}{check}")).is_empty(), "{check}");
    }
    let check =
        "pub mod check { use crate::format; #[cfg(test)] mod tests { use crate::engine; } }";
    assert_eq!(faults("pool", &format!("{engine}{check}")), Vec::<String>::new());
}

/// Each name may come through each glob, and through one that another brings.
#[test]
fn many_globs_cost_little_and_hide_nothing() {
    let globs: String = (0..12).map(|n| format!("use E{n}::*; use e{n}::g::*; ")).collect();
    let text = format!("{globs} fn f() {{ let _ = (a(), b::c(), d::e::f()); }}");
    assert_eq!(faults("pool", &text), Vec::<String>::new());
    let deep = "mod a { pub use std::*; } use a::*; use fs::*; fn f() { read(); }";
    assert!(!faults("pool", &format!("{globs} {deep}")).is_empty());
}

#[test]
fn unsafe_is_seen_in_every_form() {
    for text in [
        "fn f() { unsafe { g() } }",
        "unsafe fn f() {}",
        "unsafe impl Send for X {}",
        "#![allow(unsafe_code)] fn f() {}",
        "#[allow(unsafe_code)] fn f() {}",
        "fn f() { m!(unsafe { g() }) }",
        "impl X { #[expect(unsafe_code)] fn f() {} }",
    ] {
        assert!(!faults("frontend", text).is_empty(), "{text}");
        assert!(faults("os", text).is_empty(), "{text}");
    }
}

#[test]
fn an_arrow_against_the_table_and_an_unknown_crate_are_faults() {
    let mut pool = crate_of("pool", "");
    pool.dependencies = BTreeSet::from(["os".to_owned(), "tokio".to_owned(), "block".to_owned()]);
    let crates = [crate_of("os", ""), crate_of("block", ""), pool];
    assert_eq!(rules::check(&crates).len(), 2);
    assert_eq!(faults("stray", "").len(), 1);
}

#[test]
fn a_followed_call_must_be_true() {
    let one = crate_of("pool", "pub struct A; impl A { fn go(&self) {} } fn f() {}");
    let section = |call: &str| {
        format!("## Calls, followed\n\n{}", format!("### A call\n{call}\n\n").repeat(4))
    };
    let told = |call: &str| {
        calls::check(
            &section(call),
            &[crate_of("pool", "pub struct A; impl A { fn go(&self) {} } fn f() {}")],
        )
        .len()
    };
    assert_eq!(
        calls::check(&section("`pool/src/lib.rs`: `A::go` and `f`"), &[one]),
        Vec::<String>::new()
    );
    assert_eq!(told("`pool/src/lib.rs`: `A::gone`"), 4);
    assert_eq!(told("`pool/src/gone.rs`"), 4);
    assert_eq!(told("nothing"), 4);
    assert_eq!(calls::check("# Map", &[]).len(), 1);
}

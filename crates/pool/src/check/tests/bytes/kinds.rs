//! No kind of structure is forgotten.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::format::DiskGeometry;

/// What a structure begins with, where it begins with something; a new kind has to be named here.
fn magic(kind: StructureKind) -> Option<&'static str> {
    match kind {
        StructureKind::Label => Some("EPLABEL"),
        StructureKind::Reservation => Some("EPFIELD"),
        StructureKind::Vote => Some("epVOTE"),
        StructureKind::Applied => Some("epCONFRM"),
        StructureKind::CheckpointHeader => Some("epCHECKP"),
        StructureKind::MetadataEntry => Some("epMETLOG"),
        StructureKind::SegmentHeader => Some("epSEGMNT"),
        StructureKind::DataRecord
        | StructureKind::ZeroRecord
        | StructureKind::MarkRecord
        | StructureKind::LostRecord
        | StructureKind::FreshIntent
        | StructureKind::OverwriteIntent => Some("epLR"),
        StructureKind::ChecksumBlock => Some("epCS"),
        // Their CRCs are in what names them.
        StructureKind::CheckpointTable | StructureKind::CheckpointSection => None,
    }
}

fn magics() -> BTreeSet<&'static str> {
    StructureKind::ALL.into_iter().filter_map(magic).collect()
}

fn sources(directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).expect("the sources") {
        let path = entry.expect("the sources").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if name != "tests" {
                sources(&path, found);
            }
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            found.push(std::fs::read_to_string(&path).expect("the sources"));
        }
    }
}

/// A magic in the sources that `dump` doesn't know is a structure that nobody damages here.
#[test]
fn each_magic_of_the_sources_is_a_kind_that_a_dump_tells() {
    let (mut files, mut found) = (Vec::new(), BTreeSet::new());
    for directory in ["src", "../block/src", "../aoe-target/src"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &mut files);
    }
    let constants = files.iter().flat_map(|file| file.lines());
    for line in constants.filter(|line| line.contains("MAGIC") && line.contains("const")) {
        let Some((_, rest)) = line.split_once("b\"") else { continue };
        let magic = rest.split(['"', '\\']).next().unwrap_or_default();
        // What others put on disks begins otherwise.
        if magic.to_lowercase().starts_with("ep") {
            found.insert(magic.to_owned());
        }
    }
    let known: BTreeSet<String> = magics().into_iter().map(str::to_owned).collect();
    assert_eq!(found, known);
}

/// Where the fixed structures are nothing else is, and all that begins as one of ours is told.
#[test]
fn all_that_is_on_the_disks_is_told_and_of_every_kind_there_is_something() {
    let mut seen = BTreeSet::new();
    for busy in [Busy::at_work(), Busy::with_lost_row()] {
        let structures = structures(&busy.images());
        seen.extend(structures.iter().filter(|s| s.state == StructureState::Sound).map(|s| s.kind));
        for (disk, image) in busy.base.iter().enumerate() {
            let name = &busy.disks[disk].name;
            let is_told = |at: u64| {
                let on_it = structures.iter().filter(|s| s.disk == *name);
                let mut there =
                    on_it.filter(|s| s.kind != StructureKind::MetadataEntry || s.bytes > 0);
                there.any(|s| {
                    (s.disk_offset_bytes..s.disk_offset_bytes + s.bytes.next_multiple_of(512))
                        .contains(&at)
                })
            };
            let [_, _, tail, _] = DiskGeometry::label_slots(image.len() as u64);
            for (sector, bytes) in image.chunks_exact(512).enumerate() {
                let at = (sector * 512) as u64;
                let is_fixed = at < MIB || at >= tail.byte_offset();
                if is_fixed && bytes.iter().any(|byte| *byte != 0) {
                    assert!(is_told(at), "{name}: nobody tells what is at {at}");
                }
                let ours = bytes.starts_with(b"ep") || bytes.starts_with(b"EP");
                let begins = magics().into_iter().any(|magic| bytes.starts_with(magic.as_bytes()));
                assert!(!ours || begins, "{name}: an unknown structure at {at}");
            }
        }
    }
    seen.insert(StructureKind::Reservation);
    let all: BTreeSet<StructureKind> = StructureKind::ALL.into();
    let missing: Vec<_> = all.difference(&seen).collect();
    assert!(missing.is_empty(), "none of {missing:?}: nobody damages these");
}

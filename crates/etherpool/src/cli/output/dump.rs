//! What `pool dump` tells, line by line.

use pool::check::{DumpItem, Fields, Structure, Value};

/// One line: a structure with its place first, so that the lines of a disk can be sorted and cut out.
pub fn dumped(item: &DumpItem) -> String {
    let (about, says) = match item {
        DumpItem::Structure(structure) => return structure_line(structure),
        DumpItem::Pool(says) => ("pool", says),
        DumpItem::Disk(says) => ("disk", says),
        DumpItem::Volume(says) => ("volume", says),
        DumpItem::Run(says) => ("run", says),
        DumpItem::Segment(says) => ("segment", says),
        DumpItem::Dirty(says) => ("dirty", says),
        DumpItem::Job(says) => ("job", says),
        DumpItem::Setting(says) => return setting_line(says),
        DumpItem::Stranger(says) => ("stranger", says),
    };
    format!("{about:<8} {says}")
}

fn setting_line(says: &Fields) -> String {
    match (says.get("key"), says.get("value")) {
        // Whole files: programs get them as JSON.
        (Some(Value::Text(key)), Some(Value::Text(value))) if pool::is_note(key) => {
            format!("setting  key={key} value=({} bytes; all of it with --json)", value.len())
        }
        _ => format!("setting  {says}"),
    }
}

fn structure_line(structure: &Structure) -> String {
    let Structure { disk, kind, disk_offset_bytes, bytes, state, says } = structure;
    format!("{disk} {disk_offset_bytes:>14} {bytes:>6} {kind:<18} {state:<10} {says}")
}

//! What a target tells about an export when a session opens: the payload of the reply to OPEN.

use block::{Buffer, Epoch, Holder, OwnerId};

use super::holder::{emit_heard, parse_heard};
use super::{ParseError, bytes_at, u32_at, u64_at};

const SECTORS: usize = 0;
const PHYSICAL_BLOCK: usize = SECTORS + 8;
const MESSAGE_SECTORS: usize = PHYSICAL_BLOCK + 4;
const FLAGS: usize = MESSAGE_SECTORS + 4;
const WINDOW: usize = FLAGS + 4;
const HOLDER_EPOCH: usize = WINDOW + 4;
const HOLDER_OWNER: usize = HOLDER_EPOCH + 8;
const NODE_ID: usize = HOLDER_OWNER + 16;
const NODE_NAME: usize = NODE_ID + 16;
const EXPORT_NAME: usize = NODE_NAME + NODE_NAME_BYTES;
const HOLDER_HEARD: usize = EXPORT_NAME + EXPORT_NAME_BYTES;
/// Bytes of the payload.
pub const EXPORT_INFO_BYTES: usize = HOLDER_HEARD + 8;
const _: () = assert!(EXPORT_INFO_BYTES == 200);

const NODE_NAME_BYTES: usize = 32;
const EXPORT_NAME_BYTES: usize = 96;
const FLAG_READ_ONLY: u32 = 0x1;

/// An export as its target describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Size in sectors.
    pub sectors: u64,
    /// Smallest write without read-modify-write, in bytes.
    pub physical_block_bytes: u32,
    /// Most sectors in a READ or WRITE, in version 1 on this path.
    pub message_sectors_max: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Sequence numbers that may be open at once.
    pub window: u32,
    /// Who holds the medium.
    pub holder: Holder,
    /// The machine.
    pub node_id: uuid::Uuid,
    /// The machine's name, for people; cut to 32 bytes.
    pub node_name: String,
    /// The version of its program, for people; empty from programs before 0.2, or where the name leaves no room for it.
    pub node_version: String,
    /// The export's name, for people; cut to 96 bytes.
    pub export_name: String,
    /// Its drive's serial number, for people; empty where that isn't known, or the name leaves no room for it.
    pub drive_serial: String,
}

impl ExportInfo {
    /// Reads the payload.
    pub fn parse(payload: &[u8]) -> Result<ExportInfo, ParseError> {
        if payload.len() != EXPORT_INFO_BYTES {
            return Err(ParseError::Length);
        }
        let flags = u32_at(payload, FLAGS)?;
        if flags & !FLAG_READ_ONLY != 0 {
            return Err(ParseError::Reserved);
        }
        let node = bytes_at::<NODE_NAME_BYTES>(payload, NODE_NAME)?;
        let (node_name, node_version) = two_texts(&node);
        let export = bytes_at::<EXPORT_NAME_BYTES>(payload, EXPORT_NAME)?;
        let (export_name, drive_serial) = two_texts(&export);
        Ok(ExportInfo {
            sectors: u64_at(payload, SECTORS)?,
            physical_block_bytes: u32_at(payload, PHYSICAL_BLOCK)?,
            message_sectors_max: u32_at(payload, MESSAGE_SECTORS)?,
            read_only: flags & FLAG_READ_ONLY != 0,
            window: u32_at(payload, WINDOW)?,
            holder: Holder {
                epoch: Epoch(u64_at(payload, HOLDER_EPOCH)?),
                owner: OwnerId(uuid::Uuid::from_bytes(bytes_at(payload, HOLDER_OWNER)?)),
                heard: parse_heard(u64_at(payload, HOLDER_HEARD)?),
            },
            node_id: uuid::Uuid::from_bytes(bytes_at(payload, NODE_ID)?),
            node_name,
            node_version,
            export_name,
            drive_serial,
        })
    }

    /// The payload.
    pub fn emit(&self) -> Buffer {
        let mut bytes = [0; EXPORT_INFO_BYTES];
        bytes[SECTORS..PHYSICAL_BLOCK].copy_from_slice(&self.sectors.to_be_bytes());
        bytes[PHYSICAL_BLOCK..MESSAGE_SECTORS]
            .copy_from_slice(&self.physical_block_bytes.to_be_bytes());
        bytes[MESSAGE_SECTORS..FLAGS].copy_from_slice(&self.message_sectors_max.to_be_bytes());
        let flags = if self.read_only { FLAG_READ_ONLY } else { 0 };
        bytes[FLAGS..WINDOW].copy_from_slice(&flags.to_be_bytes());
        bytes[WINDOW..HOLDER_EPOCH].copy_from_slice(&self.window.to_be_bytes());
        bytes[HOLDER_EPOCH..HOLDER_OWNER].copy_from_slice(&self.holder.epoch.0.to_be_bytes());
        bytes[HOLDER_OWNER..NODE_ID].copy_from_slice(self.holder.owner.0.as_bytes());
        bytes[NODE_ID..NODE_NAME].copy_from_slice(self.node_id.as_bytes());
        let node = &mut bytes[NODE_NAME..EXPORT_NAME];
        put_two_texts(node, &self.node_name, &self.node_version);
        let export = &mut bytes[EXPORT_NAME..HOLDER_HEARD];
        put_two_texts(export, &self.export_name, &self.drive_serial);
        bytes[HOLDER_HEARD..].copy_from_slice(&emit_heard(self.holder.heard).to_be_bytes());
        Buffer::copy_of(&bytes)
    }
}

/// Cut at a character's border, so that no half of one goes out.
pub(crate) fn put_text(field: &mut [u8], text: &str) {
    let fits = |len: &usize| *len <= field.len();
    let ends = text.char_indices().map(|(start, c)| start + c.len_utf8());
    let len = ends.take_while(fits).last().unwrap_or(0);
    field[..len].copy_from_slice(&text.as_bytes()[..len]);
}

/// Whoever looks for one finds the first, as former programs do. Half of the second would be another one.
fn put_two_texts(field: &mut [u8], first: &str, second: &str) {
    put_text(field, first);
    let end = end_of_text(field);
    if let Some(rest) = field.get_mut(end + 1..).filter(|rest| second.len() <= rest.len()) {
        put_text(rest, second);
    }
}

fn two_texts(field: &[u8]) -> (String, String) {
    let (first, second) = field.split_at(end_of_text(field));
    (text(first), text(second.get(1..).unwrap_or_default()))
}

/// Where a text ends.
fn end_of_text(field: &[u8]) -> usize {
    field.iter().position(|byte| *byte == 0).unwrap_or(field.len())
}

/// Names reach terminals and logs: control characters don't.
pub(crate) fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&field[..end_of_text(field)])
        .chars()
        .filter(|c| !c.is_control())
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn example() -> ExportInfo {
        ExportInfo {
            sectors: 0x0102_0304_0506_0708,
            physical_block_bytes: 4096,
            message_sectors_max: 16,
            read_only: true,
            window: 1024,
            holder: Holder {
                heard: Some(Duration::from_millis(0x0203)),
                ..Holder::new(Epoch(5), OwnerId(uuid::Uuid::from_bytes([7; 16])))
            },
            node_id: uuid::Uuid::from_bytes([8; 16]),
            node_name: "node-194".into(),
            node_version: "0.2.0".into(),
            export_name: "/dev/sda".into(),
            drive_serial: "WD-1".into(),
        }
    }

    #[test]
    fn literal_bytes() {
        let bytes = example().emit();
        assert_eq!(bytes.len(), 200);
        #[rustfmt::skip]
        assert_eq!(bytes[..32], [
            1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0x10, 0, 0, 0, 0, 16, 0, 0, 0, 1, 0, 0, 4, 0,
            0, 0, 0, 0, 0, 0, 0, 5,
        ]);
        assert_eq!((&bytes[32..48], &bytes[48..64]), (&[7; 16][..], &[8; 16][..]));
        assert_eq!(&bytes[64..79], b"node-194\x000.2.0\0");
        assert_eq!(&bytes[96..110], b"/dev/sda\0WD-1\0");
        assert_eq!(bytes[192..], [0, 0, 0, 0, 0, 0, 2, 3]);
        assert_eq!(ExportInfo::parse(&bytes), Ok(example()));
        let mut never = example();
        never.holder.heard = None;
        let bytes = never.emit();
        assert_eq!(bytes[192..], [0xff; 8]);
        assert_eq!(ExportInfo::parse(&bytes), Ok(never));
    }

    #[test]
    fn names_are_cut_at_characters_and_cleaned() {
        let mut info = example();
        info.node_name = "ä".repeat(40);
        info.export_name = format!("{}é", "x".repeat(95));
        let parsed = ExportInfo::parse(&info.emit()).unwrap();
        assert_eq!(parsed.node_name, "ä".repeat(16));
        assert_eq!(parsed.export_name, "x".repeat(95));
        assert_eq!(parsed.drive_serial, "", "half of one would be another one's");
        info.export_name = "x".repeat(91);
        assert_eq!(ExportInfo::parse(&info.emit()).unwrap().drive_serial, "WD-1");
        let mut bytes = info.emit().to_vec();
        bytes[64..68].copy_from_slice(b"a\x1b\xffb");
        assert!(ExportInfo::parse(&bytes).unwrap().node_name.starts_with("a\u{fffd}b"));
    }

    /// Neither is lost by a long name of a machine: it is what pools remember of it.
    #[test]
    fn a_version_is_told_where_there_is_room_for_all_of_it() {
        let mut info = example();
        for (name_bytes, told) in [(26, "0.2.0"), (27, ""), (31, ""), (32, "")] {
            info.node_name = "n".repeat(name_bytes);
            let parsed = ExportInfo::parse(&info.emit()).unwrap();
            assert_eq!((parsed.node_name.len(), parsed.node_version.as_str()), (name_bytes, told));
        }
        // Of a program that tells none, and one that looks for none.
        info.node_version.clear();
        info.node_name = "node".into();
        assert_eq!(ExportInfo::parse(&info.emit()), Ok(info));
    }

    #[test]
    fn wrong_lengths_and_flags() {
        let bytes = example().emit();
        assert_eq!(ExportInfo::parse(&bytes[..199]), Err(ParseError::Length));
        let mut flagged = bytes.to_vec();
        flagged[19] = 2;
        assert_eq!(ExportInfo::parse(&flagged), Err(ParseError::Reserved));
    }
}

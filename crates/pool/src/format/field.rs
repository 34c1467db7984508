//! Fields of fixed structures: each offset follows from the field before it, so a byte map can't
//! overlap itself, and the total is a constant that the structure's module asserts.

use uuid::Uuid;

/// A run of bytes within a structure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    offset: usize,
    len: usize,
}

impl Field {
    /// The first field of a structure.
    pub(crate) const fn first(len: usize) -> Field {
        Field { offset: 0, len }
    }

    /// The field of `len` bytes right behind this one.
    pub(crate) const fn then(self, len: usize) -> Field {
        Field { offset: self.end(), len }
    }

    /// One past its last byte.
    pub(crate) const fn end(self) -> usize {
        self.offset + self.len
    }

    /// Its bytes; zero-length when the structure is shorter than its map, which callers exclude by
    /// checking the length first.
    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.offset..self.end()).unwrap_or_default()
    }

    /// Its bytes, to write.
    pub(crate) fn of_mut(self, bytes: &mut [u8]) -> &mut [u8] {
        bytes.get_mut(self.offset..self.end()).unwrap_or_default()
    }

    /// Its value as a little-endian number; a longer field than 8 bytes is no number.
    pub(crate) fn number(self, bytes: &[u8]) -> u64 {
        debug_assert!(self.len <= 8);
        self.of(bytes).iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    /// As [`Field::number`], for fields of at most 4 bytes.
    pub(crate) fn number32(self, bytes: &[u8]) -> u32 {
        debug_assert!(self.len <= 4);
        self.number(bytes) as u32
    }

    /// Stores a number; the field is as long as the number's type demands.
    pub(crate) fn put_number(self, bytes: &mut [u8], value: u64) {
        debug_assert!(
            self.len == 8 || value >> (8 * self.len) == 0,
            "{value} in {} bytes",
            self.len
        );
        let encoded = value.to_le_bytes();
        self.of_mut(bytes).copy_from_slice(&encoded[..self.len]);
    }

    /// Its value as a UUID.
    pub(crate) fn uuid(self, bytes: &[u8]) -> Uuid {
        Uuid::from_slice(self.of(bytes)).unwrap_or_default()
    }

    /// Stores a UUID.
    pub(crate) fn put_uuid(self, bytes: &mut [u8], value: Uuid) {
        self.of_mut(bytes).copy_from_slice(value.as_bytes());
    }

    /// Its value as zero-padded UTF-8; `None` when it isn't that. It is shown to people and anybody may
    /// have written it: control characters aren't theirs to send to a terminal.
    pub(crate) fn text(self, bytes: &[u8]) -> Option<String> {
        let field = self.of(bytes);
        let len = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        let (text, padding) = field.split_at(len);
        if padding.iter().any(|byte| *byte != 0) {
            return None;
        }
        let text = String::from_utf8(text.to_vec()).ok()?;
        Some(text.replace(char::is_control, "?"))
    }

    /// Stores zero-padded UTF-8, cut at a character boundary where it is too long.
    pub(crate) fn put_text(self, bytes: &mut [u8], value: &str) {
        let mut len = value.len().min(self.len);
        while !value.is_char_boundary(len) {
            len -= 1;
        }
        let field = self.of_mut(bytes);
        field.fill(0);
        field[..len].copy_from_slice(&value.as_bytes()[..len]);
    }
}

/// CRC32C of `bytes` with the field `crc` taken as zeros.
pub(crate) fn crc_without(bytes: &[u8], crc: Field) -> u32 {
    crc_seeded(&[], bytes, crc)
}

/// The same, behind `seed`.
pub(crate) fn crc_seeded(seed: &[u8], bytes: &[u8], crc: Field) -> u32 {
    let mut digest = block::Crc32c::new();
    digest.update(seed);
    digest.update(bytes.get(..crc.offset).unwrap_or_default());
    digest.update(&[0; 4]);
    digest.update(bytes.get(crc.end()..).unwrap_or_default());
    digest.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_anybody_wrote_is_one_line() {
        let field = Field::first(16);
        let mut bytes = [0; 16];
        field.put_text(&mut bytes, "tank\n\u{1b}[2J\u{9b}é");
        assert_eq!(field.text(&bytes).as_deref(), Some("tank??[2J?é"));
    }
}

//! Reading and writing sequences of variable length: metadata records and checkpoints.
//!
//! Numbers are LEB128, because most of them are small and there are many. The reader never reads
//! past the end, never reserves more than the bytes that are there could fill, and refuses
//! everything that the writer wouldn't have written.
//!
//! A structure is its fields one after the other, and says once in which order ([`coded`]).

use uuid::Uuid;

/// The bytes aren't what the writer would have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed at byte {at}")]
pub struct Malformed {
    /// Where reading stopped.
    pub at: usize,
}

/// Collects encoded bytes.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new() -> Writer {
        Writer::default()
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn byte(&mut self, value: u8) -> &mut Writer {
        self.0.push(value);
        self
    }

    pub(crate) fn number(&mut self, mut value: u64) -> &mut Writer {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8)
    }

    /// Eight bytes as they are, for masks, whose high bits are as likely as the low ones.
    pub(crate) fn fixed64(&mut self, value: u64) -> &mut Writer {
        self.fixed(&value.to_le_bytes())
    }

    /// So many bytes as they are.
    pub(crate) fn fixed<const N: usize>(&mut self, bytes: &[u8; N]) -> &mut Writer {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn put(&mut self, value: &impl Coded) -> &mut Writer {
        value.put(self);
        self
    }
}

/// Takes encoded bytes apart.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The error for what was read last.
    pub(crate) fn malformed(&self) -> Malformed {
        Malformed { at: self.at }
    }

    pub(crate) fn take<T: Coded>(&mut self) -> Result<T, Malformed> {
        T::take(self)
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(len).ok_or(self.malformed())?;
        let taken = self.bytes.get(self.at..end).ok_or(self.malformed())?;
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.bytes(1)?[0])
    }

    pub(crate) fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(self.malformed());
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                // A trailing zero group would be a second encoding of the same number.
                return if byte == 0 && shift > 0 { Err(self.malformed()) } else { Ok(value) };
            }
        }
        Err(self.malformed())
    }

    pub(crate) fn fixed64(&mut self) -> Result<u64, Malformed> {
        self.fixed().map(u64::from_le_bytes)
    }

    pub(crate) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let at = self.malformed();
        self.bytes(N)?.try_into().map_err(|_| at)
    }

    /// A count of items of at least one byte each, so never more than there are bytes left.
    pub(crate) fn count(&mut self) -> Result<usize, Malformed> {
        let count = self.number()?;
        let left = self.bytes.len() - self.at;
        usize::try_from(count).ok().filter(|count| *count <= left).ok_or(self.malformed())
    }
}

/// What has one form as bytes.
pub(crate) trait Coded: Sized {
    fn put(&self, w: &mut Writer);
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed>;
}

/// What lists are made of. Plain numbers aren't: nothing would say of which form they are.
pub(crate) trait Listed: Coded {}

/// Has a structure coded as its fields, in the order that is told, and an enum as a tag and the fields
/// behind it.
macro_rules! coded {
    (struct $type:ident { $($field:tt),+ }) => {
        impl $crate::format::Coded for $type {
            fn put(&self, w: &mut $crate::format::Writer) {
                $(w.put(&self.$field);)+
            }

            fn take(r: &mut $crate::format::Reader<'_>) -> Result<$type, $crate::format::Malformed> {
                Ok($type { $($field: r.take()?),+ })
            }
        }

        impl $crate::format::Listed for $type {}
    };
    (enum $type:ident {
        $($tag:literal => $variant:ident $({ $($field:ident),+ })? $(($only:ident))?,)+
    }) => {
        impl $crate::format::Coded for $type {
            fn put(&self, w: &mut $crate::format::Writer) {
                match self {
                    $($type::$variant $({ $($field),+ })? $(($only))? => {
                        w.byte($tag)$($(.put($field))+)?$(.put($only))?;
                    })+
                }
            }

            fn take(r: &mut $crate::format::Reader<'_>) -> Result<$type, $crate::format::Malformed> {
                Ok(match r.byte()? {
                    $($tag => {
                        $($(let $field = r.take()?;)+)?
                        $(let $only = r.take()?;)?
                        $type::$variant $({ $($field),+ })? $(($only))?
                    })+
                    _ => return Err(r.malformed()),
                })
            }
        }

        impl $crate::format::Variant for $type {
            fn variant(&self) -> &'static str {
                match self { $($type::$variant { .. } => stringify!($variant),)+ }
            }
        }
    };
}
pub(crate) use coded;

/// What tells its values apart has a name.
pub(crate) trait Variant {
    /// That of this one.
    fn variant(&self) -> &'static str;
}

impl Coded for u8 {
    fn put(&self, w: &mut Writer) {
        w.byte(*self);
    }

    fn take(r: &mut Reader<'_>) -> Result<u8, Malformed> {
        r.byte()
    }
}

macro_rules! coded_numbers {
    ($($type:ty),+) => {$(
        impl Coded for $type {
            fn put(&self, w: &mut Writer) {
                w.number((*self).into());
            }

            fn take(r: &mut Reader<'_>) -> Result<$type, Malformed> {
                <$type>::try_from(r.number()?).map_err(|_| r.malformed())
            }
        }
    )+};
}

coded_numbers!(u16, u32, u64);

impl Coded for Uuid {
    fn put(&self, w: &mut Writer) {
        w.0.extend_from_slice(self.as_bytes());
    }

    fn take(r: &mut Reader<'_>) -> Result<Uuid, Malformed> {
        Uuid::from_slice(r.bytes(16)?).map_err(|_| r.malformed())
    }
}

impl Coded for String {
    fn put(&self, w: &mut Writer) {
        w.number(self.len() as u64);
        w.0.extend_from_slice(self.as_bytes());
    }

    fn take(r: &mut Reader<'_>) -> Result<String, Malformed> {
        let len = r.number()?;
        let len = usize::try_from(len).map_err(|_| r.malformed())?;
        String::from_utf8(r.bytes(len)?.to_vec()).map_err(|_| r.malformed())
    }
}

impl<T: Listed> Coded for Vec<T> {
    fn put(&self, w: &mut Writer) {
        w.number(self.len() as u64);
        self.iter().for_each(|item| item.put(w));
    }

    fn take(r: &mut Reader<'_>) -> Result<Vec<T>, Malformed> {
        (0..r.count()?).map(|_| r.take()).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_encoding() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut writer = Writer::new();
            writer.number(value);
            let bytes = writer.into_bytes();
            assert_eq!(Reader::new(&bytes).number(), Ok(value));
        }
        assert!(Reader::new(&[0x80, 0x00]).number().is_err());
        assert!(Reader::new(&[0xff; 11]).number().is_err());
        assert!(Reader::new(&[0x80]).number().is_err());
    }

    #[test]
    fn lengths_beyond_the_end_are_refused() {
        let mut writer = Writer::new();
        writer.number(u64::MAX).byte(b'x');
        let bytes = writer.into_bytes();
        assert!(Reader::new(&bytes).take::<String>().is_err());
        assert!(Reader::new(&bytes).count().is_err());
    }
}

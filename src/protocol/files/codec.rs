//! How a field becomes bytes: little-endian, fixed width, lengths before contents; every length is
//! checked on the way in.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{MAX_DATA_BYTES, malformed, too_long};
use crate::protocol::ProtocolError;

/// Longest name of a directory entry, in bytes (`NAME_MAX`).
const NAME_MAX_BYTES: usize = 255;
/// Longest link target or attribute name, in bytes (`PATH_MAX`).
const TEXT_MAX_BYTES: usize = 4096;

/// Something that can be written to and read from a frame.
pub(crate) trait Field: Sized {
    /// Appends the field to `out`.
    fn put(&self, out: &mut BytesMut);
    /// Takes the field from the front of `input`.
    fn take(input: &mut Bytes) -> Result<Self, ProtocolError>;
}

/// One name in a directory: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Name(Bytes);

/// Bytes without NUL, at most 4096 of them: a link's target, an attribute's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text(Bytes);

impl Name {
    /// `None` if `bytes` is no name that a directory could hold.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        Self::is_valid(bytes).then(|| Self(Bytes::copy_from_slice(bytes)))
    }

    /// The bytes of the name.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn is_valid(bytes: &[u8]) -> bool {
        (1..=NAME_MAX_BYTES).contains(&bytes.len())
            && bytes != b"."
            && bytes != b".."
            && !bytes.iter().any(|&byte| byte == 0 || byte == b'/')
    }
}

impl Text {
    /// `None` if `bytes` is too long or holds a NUL.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        Self::is_valid(bytes).then(|| Self(Bytes::copy_from_slice(bytes)))
    }

    /// The bytes of the text.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn is_valid(bytes: &[u8]) -> bool {
        bytes.len() <= TEXT_MAX_BYTES && !bytes.contains(&0)
    }
}

macro_rules! number {
    ($($ty:ty: $put:ident, $try_get:ident;)*) => {$(
        impl Field for $ty {
            fn put(&self, out: &mut BytesMut) {
                out.$put(*self);
            }
            fn take(input: &mut Bytes) -> Result<Self, ProtocolError> {
                input.$try_get().map_err(|_| malformed("a frame is cut short"))
            }
        }
    )*};
}

number! {
    u8: put_u8, try_get_u8;
    u32: put_u32_le, try_get_u32_le;
    i32: put_i32_le, try_get_i32_le;
    u64: put_u64_le, try_get_u64_le;
    i64: put_i64_le, try_get_i64_le;
}

impl Field for bool {
    fn put(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(*self));
    }

    fn take(input: &mut Bytes) -> Result<Self, ProtocolError> {
        match u8::take(input)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(malformed(format!("{value} as a bool"))),
        }
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, out: &mut BytesMut) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(input: &mut Bytes) -> Result<Self, ProtocolError> {
        bool::take(input)?.then(|| T::take(input)).transpose()
    }
}

/// Appends what [`Vec::take`](Field::take) takes.
pub(super) fn put_all<T: Field>(values: &[T], out: &mut BytesMut) {
    for value in values {
        true.put(out);
        value.put(out);
    }
    false.put(out);
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, out: &mut BytesMut) {
        put_all(self, out);
    }

    // Each element is announced, so that no count has to be trusted: the frame's size bounds the
    // vector.
    fn take(input: &mut Bytes) -> Result<Self, ProtocolError> {
        let mut values = Vec::new();
        while bool::take(input)? {
            values.push(T::take(input)?);
        }
        Ok(values)
    }
}

impl Field for Bytes {
    fn put(&self, out: &mut BytesMut) {
        // Longer contents cannot be decoded and are refused by the frame's encoder, so the cast
        // loses nothing.
        out.put_u32_le(self.len() as u32);
        out.put_slice(self);
    }

    fn take(input: &mut Bytes) -> Result<Self, ProtocolError> {
        let len = u32::take(input)? as usize;
        if len > MAX_DATA_BYTES {
            return Err(too_long(len, MAX_DATA_BYTES));
        }
        if len > input.remaining() {
            return Err(malformed("a frame is cut short"));
        }
        Ok(input.split_to(len))
    }
}

impl Field for Name {
    fn put(&self, out: &mut BytesMut) {
        self.0.put(out);
    }

    fn take(input: &mut Bytes) -> Result<Self, ProtocolError> {
        let bytes = <Bytes as Field>::take(input)?;
        if Name::is_valid(&bytes) { Ok(Self(bytes)) } else { Err(malformed("a name that no directory can hold")) }
    }
}

impl Field for Text {
    fn put(&self, out: &mut BytesMut) {
        self.0.put(out);
    }

    fn take(input: &mut Bytes) -> Result<Self, ProtocolError> {
        let bytes = <Bytes as Field>::take(input)?;
        if Text::is_valid(&bytes) { Ok(Self(bytes)) } else { Err(malformed("a name that no directory can hold")) }
    }
}

/// Defines an enum whose variants are told apart by one byte, with its encoding.
macro_rules! messages {
    (
        $(#[$meta:meta])*
        pub(crate) enum $name:ident {
            $($(#[$vmeta:meta])* $tag:literal $variant:ident { $($(#[$fmeta:meta])* $field:ident: $ty:ty),* $(,)? },)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) enum $name {
            $($(#[$vmeta])* $variant { $($(#[$fmeta])* $field: $ty),* },)*
        }

        impl Field for $name {
            fn put(&self, out: &mut BytesMut) {
                match self {
                    $($name::$variant { $($field),* } => {
                        u8::put(&$tag, out);
                        $($field.put(out);)*
                    })*
                }
            }

            fn take(input: &mut Bytes) -> Result<Self, ProtocolError> {
                match u8::take(input)? {
                    $($tag => Ok($name::$variant { $($field: Field::take(input)?),* }),)*
                    value => Err(malformed(format!("{value} as the tag of {}", stringify!($name)))),
                }
            }
        }
    };
}

/// Defines a struct with its encoding: the fields one after the other.
macro_rules! record {
    (
        $(#[$meta:meta])*
        pub(crate) struct $name:ident { $($(#[$fmeta:meta])* $field:ident: $ty:ty),* $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) struct $name { $($(#[$fmeta])* pub(crate) $field: $ty),* }

        impl Field for $name {
            fn put(&self, out: &mut BytesMut) {
                $(self.$field.put(out);)*
            }

            fn take(input: &mut Bytes) -> Result<Self, ProtocolError> {
                Ok($name { $($field: Field::take(input)?),* })
            }
        }
    };
}

pub(super) use {messages, record};

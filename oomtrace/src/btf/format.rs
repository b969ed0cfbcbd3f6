//! The BTF format: `Documentation/bpf/btf.rst` and `include/uapi/linux/btf.h` in the kernel.

use std::array;

use super::BtfError;

const MAGIC: u16 = 0xeb9f;
/// `struct btf_header` before it grew a layout section.
const HEADER_BYTES: usize = 24;
/// `struct btf_type`, without what follows it.
const TYPE_BYTES: usize = 12;

/// `BTF_KIND_*`.
pub(super) mod kind {
    pub const VOID: u8 = 0;
    pub const INT: u8 = 1;
    pub const PTR: u8 = 2;
    pub const ARRAY: u8 = 3;
    pub const STRUCT: u8 = 4;
    pub const UNION: u8 = 5;
    pub const ENUM: u8 = 6;
    pub const FWD: u8 = 7;
    pub const TYPEDEF: u8 = 8;
    pub const VOLATILE: u8 = 9;
    pub const CONST: u8 = 10;
    pub const RESTRICT: u8 = 11;
    pub const FUNC: u8 = 12;
    pub const FUNC_PROTO: u8 = 13;
    pub const VAR: u8 = 14;
    pub const DATASEC: u8 = 15;
    pub const FLOAT: u8 = 16;
    pub const DECL_TAG: u8 = 17;
    pub const TYPE_TAG: u8 = 18;
    pub const ENUM64: u8 = 19;
}

/// One `struct btf_type`.
#[derive(Clone, Copy)]
pub(super) struct Type {
    /// Where it begins in the type section.
    pub(super) at: usize,
    /// Where its name begins in the string section.
    pub(super) name: u32,
    pub(super) kind: u8,
    /// `kind_flag`: bit-fields in a struct, signed values in an enum, a union in a forward.
    pub(super) flag: bool,
    /// Number of members, enumerators or parameters.
    pub(super) vlen: u32,
    /// Its size or the type it refers to, by kind.
    pub(super) size_or_type: u32,
}

/// The sections of a BTF file.
#[derive(Clone, Copy)]
pub(super) struct Sections<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// `struct btf_layout` per kind; empty before the kernels that write it (7.x).
    layouts: &'a [u8],
}

impl<'a> Sections<'a> {
    /// Reads the header, and holds the sections to it.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let short = || BtfError::Malformed("the header is cut short");
        let &[magic_0, magic_1, version, _flags] = bytes.first_chunk().ok_or_else(short)?;
        match u16::from_ne_bytes([magic_0, magic_1]) {
            MAGIC => {}
            magic if magic.swap_bytes() == MAGIC => return Err(BtfError::ForeignEndian),
            _ => {
                return Err(BtfError::Malformed(
                    "it does not begin with BTF's magic number",
                ));
            }
        }
        if version != 1 {
            return Err(BtfError::Malformed("its version is not 1"));
        }
        let [header_len] = words(bytes, 4).ok_or_else(short)?;
        let (header, body) = bytes
            .split_at_checked(header_len as usize)
            .ok_or_else(short)?;
        if header.len() < HEADER_BYTES {
            return Err(short());
        }
        let section = |[offset, len]: [u32; 2]| {
            let (start, len) = (offset as usize, len as usize);
            let end = start.checked_add(len).filter(|&end| end <= body.len());
            end.map(|end| start..end)
                .ok_or(BtfError::Malformed("a section lies outside the file"))
        };
        let types = section(words(header, 8).ok_or_else(short)?)?;
        let strings = section(words(header, 16).ok_or_else(short)?)?;
        let layouts = section(words(header, HEADER_BYTES).unwrap_or_default())?;
        for (a, b) in [(&types, &strings), (&types, &layouts), (&strings, &layouts)] {
            if !a.is_empty() && !b.is_empty() && a.start < b.end && b.start < a.end {
                return Err(BtfError::Malformed("sections overlap"));
            }
        }
        let strings = &body[strings];
        if strings.first() != Some(&0) || strings.last() != Some(&0) {
            return Err(BtfError::Malformed(
                "the string section is not NUL-terminated",
            ));
        }
        Ok(Self {
            types: &body[types],
            strings,
            layouts: &body[layouts],
        })
    }

    /// The length of the type section.
    pub(super) fn types_len(&self) -> usize {
        self.types.len()
    }

    /// The type that begins at this offset of the type section.
    pub(super) fn type_at(&self, at: usize) -> Result<Type, BtfError> {
        // Not `ok_or`: an error that is built and thrown away for every type takes most of the time.
        let Some([name, info, size_or_type]) = words(self.types, at) else {
            return Err(BtfError::Malformed("a type is cut short"));
        };
        Ok(Type {
            at,
            name,
            // The widths of 7.x (24 and 7 bits). Older kernels have zeros in the new bits.
            kind: (info >> 24 & 0x7f) as u8,
            flag: info >> 31 != 0,
            vlen: info & 0xff_ffff,
            size_or_type,
        })
    }

    /// Where the next type begins; `None` if the kind is unknown.
    pub(super) fn end(&self, ty: Type) -> Option<usize> {
        let (fixed, each) = match ty.kind {
            kind::PTR
            | kind::FWD
            | kind::TYPEDEF
            | kind::VOLATILE
            | kind::CONST
            | kind::RESTRICT
            | kind::FUNC
            | kind::FLOAT
            | kind::TYPE_TAG => (0, 0),
            kind::INT | kind::VAR | kind::DECL_TAG => (4, 0),
            kind::ARRAY => (12, 0),
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => (0, 12),
            kind::ENUM | kind::FUNC_PROTO => (0, 8),
            kind::VOID => return None,
            // `struct btf_layout { u8 info_sz, elem_sz; u16 flags; }`, indexed by kind, as in
            // btf_type_size_unknown() of tools/lib/bpf/btf.c.
            unknown => match self.layouts.as_chunks().0.get(usize::from(unknown))? {
                &[fixed, each, _, _] if fixed % 4 == 0 && each % 4 == 0 => {
                    (usize::from(fixed), usize::from(each))
                }
                _ => return None,
            },
        };
        // At most 2^24 entries of 255 bytes: 4 GiB.
        let each = (ty.vlen as usize).checked_mul(each)?;
        ty.at.checked_add(TYPE_BYTES + fixed)?.checked_add(each)
    }

    /// What follows a type, in groups of `N` words.
    pub(super) fn entries<const N: usize>(
        &self,
        ty: Type,
    ) -> impl Iterator<Item = [u32; N]> + use<'a, N> {
        let end = self.end(ty).unwrap_or_default();
        let body = self.types.get(ty.at + TYPE_BYTES..end).unwrap_or_default();
        body.chunks_exact(4 * N).filter_map(|entry| words(entry, 0))
    }

    /// The string section from this offset on.
    pub(super) fn text(&self, offset: u32) -> Result<&'a [u8], BtfError> {
        match self.strings.get(offset as usize..) {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(BtfError::Malformed(
                "a name lies outside the string section",
            )),
        }
    }

    /// Whether the string at this offset is exactly `name`.
    pub(super) fn is_named(&self, offset: u32, name: &str) -> Result<bool, BtfError> {
        let rest = self.text(offset)?.strip_prefix(name.as_bytes());
        Ok(rest.is_some_and(|rest| rest.first() == Some(&0)))
    }
}

/// `N` 32-bit words at `at`.
fn words<const N: usize>(bytes: &[u8], at: usize) -> Option<[u32; N]> {
    let (words, _) = bytes.get(at..)?.as_chunks::<4>();
    let words = words.first_chunk::<N>()?;
    Some(array::from_fn(|i| u32::from_ne_bytes(words[i])))
}

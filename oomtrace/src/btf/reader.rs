//! Answers questions about types by name: where a member is, what a function takes.
//!
//! Every count, offset and id in the bytes is treated as hostile: nothing is indexed without a
//! check, chains and nesting are bounded, and memory is a small part of the input's size.

use super::BtfError;
use super::format::{Sections, Type, kind};

/// Ids are found by walking from the nearest mark: one offset in memory for so many types.
const TYPES_PER_MARK: usize = 32;
/// Steps through typedefs, qualifiers, pointers or arrays before a chain counts as a cycle.
const MAX_CHAIN: u32 = 32;
/// Anonymous structs within each other before the nesting counts as a cycle.
const MAX_NESTING: u32 = 16;
/// Definitions of looked-up names that are kept. Real kernels have a few dozen.
const MAX_DEFINITIONS: usize = 1024;
/// Members one query may look at. The largest kernel structs have a few hundred.
const MAX_MEMBERS: u32 = 1 << 16;
/// `MAX_BPF_FUNC_ARGS` is 12; C promises 127.
const MAX_PARAMETERS: u32 = 127;
/// Longer names are cut in messages (`KSYM_NAME_LEN` is 512).
const MAX_NAME: usize = 128;
/// The programs read pointers as 64 bits. On a 32-bit kernel the size checks of `long` fail first.
const POINTER_BYTES: u32 = 8;

/// A place in a struct.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Bytes from the start of the struct it was asked of.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
    /// Its type's id.
    type_id: u32,
}

/// What a member that is an array holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// The element's type as C writes it, typedefs and qualifiers removed.
    pub element: String,
    /// Size of one element in bytes.
    pub element_size: u32,
    /// Number of elements.
    pub len: u32,
}

/// A kernel's BTF, borrowed and checked.
pub struct Btf<'a> {
    sections: Sections<'a>,
    /// Offset of every [`TYPES_PER_MARK`]th type.
    marks: Vec<u32>,
    /// Number of types. Ids start at 1.
    count: u32,
    names: &'a [&'a str],
    /// Index into `names`, and the id of a type of that name.
    named: Vec<(usize, u32)>,
    /// Offset of every enum.
    enums: Vec<u32>,
}

impl<'a> Btf<'a> {
    /// Checks the header and walks all types once.
    ///
    /// Structs, functions and typedefs called one of `names` are found at once later; a query for
    /// any other name walks all types again (about a millisecond).
    ///
    /// # Errors
    /// [`BtfError::Malformed`], [`BtfError::ForeignEndian`] or [`BtfError::UnknownKind`].
    pub fn parse(bytes: &'a [u8], names: &'a [&'a str]) -> Result<Self, BtfError> {
        let sections = Sections::open(bytes)?;
        let mut btf = Self {
            sections,
            marks: Vec::new(),
            count: 0,
            names,
            named: Vec::new(),
            enums: Vec::new(),
        };
        // Most names are nobody's: their first byte alone tells.
        let mut initials: [Vec<(usize, &str)>; 256] = std::array::from_fn(|_| Vec::new());
        for (index, name) in names.iter().enumerate() {
            if let Some(&byte) = name.as_bytes().first() {
                initials[usize::from(byte)].push((index, name));
            }
        }
        let mut at = 0;
        while at < sections.types_len() {
            let id = btf.count.saturating_add(1);
            // The section's length is 32 bits wide, so every offset is.
            let offset = u32::try_from(at).map_err(|_| BtfError::Malformed("too long"))?;
            let ty = sections.type_at(at)?;
            let initial = sections.text(ty.name)?.first().copied().unwrap_or_default();
            match ty.kind {
                kind::STRUCT | kind::UNION | kind::TYPEDEF | kind::FUNC
                    if !initials[usize::from(initial)].is_empty() =>
                {
                    for &(index, name) in &initials[usize::from(initial)] {
                        if sections.is_named(ty.name, name)? {
                            btf.named.push((index, id));
                            bounded(&btf.named)?;
                        }
                    }
                }
                kind::ENUM | kind::ENUM64 => btf.enums.push(offset),
                _ => {}
            }
            if (btf.count as usize).is_multiple_of(TYPES_PER_MARK) {
                btf.marks.push(offset);
            }
            let Some(end) = sections.end(ty) else {
                return Err(BtfError::UnknownKind { kind: ty.kind, id });
            };
            at = end;
            btf.count = id;
        }
        if at > sections.types_len() {
            return Err(BtfError::Malformed("the last type is cut short"));
        }
        Ok(btf)
    }

    /// A member of a struct or union. `path` may lead through embedded ones (`"f_path.dentry"`);
    /// anonymous ones need not be spelled out.
    ///
    /// # Errors
    /// [`BtfError::NoStruct`], [`BtfError::NoMember`], [`BtfError::BitField`],
    /// [`BtfError::Ambiguous`] if definitions of the struct give different answers, and
    /// [`BtfError::Malformed`].
    pub fn member(&self, name: &str, path: &str) -> Result<Member, BtfError> {
        // Shared by all definitions: many hostile ones must not cost more than one.
        let mut budget = MAX_MEMBERS;
        let mut answer: Option<Option<Member>> = None;
        for ty in self.structs(name)? {
            let found = self.member_of(ty, name, path, &mut budget)?;
            let place = |member: Option<Member>| member.map(|member| (member.offset, member.size));
            match answer {
                Some(other) if place(other) != place(found) => {
                    return Err(BtfError::Ambiguous {
                        name: format!("struct {name}"),
                        about: format!("member \"{path}\""),
                    });
                }
                _ => answer = Some(found),
            }
        }
        answer
            .ok_or_else(|| BtfError::NoStruct {
                name: name.to_owned(),
            })?
            .ok_or_else(|| BtfError::NoMember {
                name: name.to_owned(),
                member: path.to_owned(),
            })
    }

    /// The size of a struct or union in bytes.
    ///
    /// # Errors
    /// [`BtfError::NoStruct`], or [`BtfError::Ambiguous`] if its definitions differ in size.
    pub fn struct_size(&self, name: &str) -> Result<u32, BtfError> {
        let mut sizes = self.structs(name)?.into_iter().map(|ty| ty.size_or_type);
        let size = sizes.next().ok_or_else(|| BtfError::NoStruct {
            name: name.to_owned(),
        })?;
        if sizes.any(|other| other != size) {
            return Err(BtfError::Ambiguous {
                name: format!("struct {name}"),
                about: "its size".to_owned(),
            });
        }
        Ok(size)
    }

    /// What a member that is an array holds; `None` if it is not one.
    ///
    /// # Errors
    /// [`BtfError::Malformed`].
    pub fn array(&self, member: Member) -> Result<Option<Array>, BtfError> {
        let ty = self.target(member.type_id)?;
        if ty.kind != kind::ARRAY {
            return Ok(None);
        }
        let (element, len) = self.element(ty)?;
        Ok(Some(Array {
            element: self.describe(element)?,
            element_size: self.size(element)?,
            len,
        }))
    }

    /// The value of an enumerator, in the enum called `name` or, with `None`, in any enum.
    ///
    /// # Errors
    /// [`BtfError::NoEnumerator`], or [`BtfError::Ambiguous`] if it has several values.
    pub fn enum_value(&self, name: Option<&str>, enumerator: &str) -> Result<i64, BtfError> {
        let mut answer = None;
        for &at in &self.enums {
            let ty = self.sections.type_at(at as usize)?;
            if let Some(name) = name
                && !self.sections.is_named(ty.name, name)?
            {
                continue;
            }
            let Some(value) = self.enumerator(ty, enumerator)? else {
                continue;
            };
            if answer.is_some_and(|other| other != value) {
                return Err(BtfError::Ambiguous {
                    name: name.map_or("enums".to_owned(), |name| format!("enum {name}")),
                    about: enumerator.to_owned(),
                });
            }
            answer = Some(value);
        }
        answer.ok_or_else(|| BtfError::NoEnumerator {
            name: name.map(str::to_owned),
            enumerator: enumerator.to_owned(),
        })
    }

    /// The type id of a function that is among the names [`Btf::parse`] was given; `None` if there
    /// is none of that name, or several, so that the name does not tell which one is meant.
    ///
    /// # Errors
    /// [`BtfError::Malformed`].
    pub fn func_id(&self, name: &str) -> Result<Option<u32>, BtfError> {
        let mut found = None;
        for (index, id) in &self.named {
            if self.names[*index] == name
                && self.by_id(*id)?.kind == kind::FUNC
                && found.replace(*id).is_some()
            {
                return Ok(None);
            }
        }
        Ok(found)
    }

    /// The parameter types of a function, or of a typedef of a pointer to one (`btf_trace_*`), as
    /// C writes them, typedefs and qualifiers removed: `["void *", "struct task_struct *", "int"]`.
    /// `None` if there is nothing of that name.
    ///
    /// # Errors
    /// [`BtfError::Ambiguous`] if several definitions differ, [`BtfError::UnknownShape`] if it is
    /// not a function, [`BtfError::Malformed`].
    pub fn parameters(&self, name: &str) -> Result<Option<Vec<String>>, BtfError> {
        let mut answer = None;
        for ty in self.types_named(name, &[kind::FUNC, kind::TYPEDEF])? {
            let found = self.parameters_of(ty, name)?;
            if answer.as_ref().is_some_and(|other| *other != found) {
                return Err(BtfError::Ambiguous {
                    name: name.to_owned(),
                    about: "its parameters".to_owned(),
                });
            }
            answer = Some(found);
        }
        Ok(answer)
    }

    fn parameters_of(&self, from: Type, name: &str) -> Result<Vec<String>, BtfError> {
        let mut ty = from;
        for _ in 0..MAX_CHAIN {
            match ty.kind {
                kind::FUNC | kind::TYPEDEF | kind::PTR => ty = self.target(ty.size_or_type)?,
                kind::FUNC_PROTO if ty.vlen <= MAX_PARAMETERS => {
                    return self
                        .sections
                        .entries(ty)
                        .map(|[_name, type_id]| self.describe(type_id))
                        .collect();
                }
                _ => break,
            }
        }
        Err(BtfError::UnknownShape {
            what: name.to_owned(),
            found: "not a function".to_owned(),
        })
    }

    fn enumerator(&self, ty: Type, enumerator: &str) -> Result<Option<i64>, BtfError> {
        if ty.kind == kind::ENUM64 {
            for [name, low, high] in self.sections.entries(ty) {
                if self.sections.is_named(name, enumerator)? {
                    return Ok(Some(i64::from(high.cast_signed()) << 32 | i64::from(low)));
                }
            }
        } else {
            for [name, value] in self.sections.entries(ty) {
                if self.sections.is_named(name, enumerator)? {
                    // Before 6.0 the flag was never set, whatever the sign.
                    return Ok(Some(match ty.flag {
                        true => i64::from(value.cast_signed()),
                        false => i64::from(value),
                    }));
                }
            }
        }
        Ok(None)
    }

    /// Follows `path` from one definition of the struct `name`.
    fn member_of(
        &self,
        from: Type,
        name: &str,
        path: &str,
        budget: &mut u32,
    ) -> Result<Option<Member>, BtfError> {
        let mut ty = from;
        let mut bits = 0;
        let mut type_id = 0;
        for component in path.split('.') {
            if !matches!(ty.kind, kind::STRUCT | kind::UNION) {
                return Ok(None);
            }
            let Some(found) = self.find(ty, component, MAX_NESTING, budget)? else {
                return Ok(None);
            };
            if found.bit_field {
                return Err(BtfError::BitField {
                    name: name.to_owned(),
                    member: path.to_owned(),
                });
            }
            bits += found.bits;
            type_id = found.type_id;
            ty = self.target(type_id)?;
        }
        Ok(Some(Member {
            offset: u32::try_from(bits / 8)
                .map_err(|_| BtfError::Malformed("a member lies beyond 4 GiB"))?,
            size: self.size(type_id)?,
            type_id,
        }))
    }

    /// A member of this struct or of the anonymous ones in it.
    fn find(
        &self,
        within: Type,
        name: &str,
        nesting: u32,
        budget: &mut u32,
    ) -> Result<Option<Found>, BtfError> {
        let Some(nesting) = nesting.checked_sub(1) else {
            return Err(BtfError::Malformed("structs are nested without end"));
        };
        for [member, type_id, place] in self.sections.entries(within) {
            *budget = budget
                .checked_sub(1)
                .ok_or(BtfError::Malformed("a struct has too many members"))?;
            let (bits, width) = match within.flag {
                true => (place & 0xff_ffff, place >> 24),
                false => (place, 0),
            };
            if self.sections.is_named(member, name)? {
                return Ok(Some(Found {
                    bits: u64::from(bits),
                    bit_field: width != 0 || !bits.is_multiple_of(8),
                    type_id,
                }));
            }
            if !self.sections.is_named(member, "")? {
                continue;
            }
            let ty = self.target(type_id)?;
            if matches!(ty.kind, kind::STRUCT | kind::UNION)
                && let Some(mut found) = self.find(ty, name, nesting, budget)?
            {
                found.bits += u64::from(bits);
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The size in bytes of a value of this type.
    fn size(&self, type_id: u32) -> Result<u32, BtfError> {
        let mut id = type_id;
        let mut times = 1_u32;
        for _ in 0..MAX_CHAIN {
            let ty = self.target(id)?;
            let size = match ty.kind {
                kind::PTR => POINTER_BYTES,
                kind::INT
                | kind::STRUCT
                | kind::UNION
                | kind::ENUM
                | kind::ENUM64
                | kind::FLOAT => ty.size_or_type,
                kind::ARRAY => {
                    let (element, len) = self.element(ty)?;
                    id = element;
                    times = times
                        .checked_mul(len)
                        .ok_or(BtfError::Malformed("an array is larger than 4 GiB"))?;
                    continue;
                }
                _ => return Err(BtfError::Malformed("a member's type has no size")),
            };
            return times
                .checked_mul(size)
                .ok_or(BtfError::Malformed("an array is larger than 4 GiB"));
        }
        Err(BtfError::Malformed("arrays are nested without end"))
    }

    /// An array's element type and length.
    fn element(&self, array: Type) -> Result<(u32, u32), BtfError> {
        match self.sections.entries(array).next() {
            Some([element, _index, len]) => Ok((element, len)),
            None => Err(BtfError::Malformed("an array without a description")),
        }
    }

    /// The type as C writes it, typedefs and qualifiers removed.
    fn describe(&self, type_id: u32) -> Result<String, BtfError> {
        let mut id = type_id;
        for stars in 0..MAX_CHAIN as usize {
            let ty = self.target(id)?;
            let keyword = match ty.kind {
                kind::PTR => {
                    id = ty.size_or_type;
                    continue;
                }
                kind::VOID => "void",
                kind::STRUCT => "struct ",
                kind::UNION => "union ",
                kind::FWD if ty.flag => "union ",
                kind::FWD => "struct ",
                kind::ENUM | kind::ENUM64 => "enum ",
                kind::FUNC_PROTO => "function",
                kind::ARRAY => "array",
                _ => "",
            };
            let name = self.sections.text(ty.name)?;
            let name = name.get(..MAX_NAME).unwrap_or(name);
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name);
            let space = if stars > 0 { " " } else { "" };
            return Ok(format!("{keyword}{name}{space}{}", "*".repeat(stars)));
        }
        Err(BtfError::Malformed("pointers point without end"))
    }

    /// The type behind typedefs and qualifiers.
    fn target(&self, type_id: u32) -> Result<Type, BtfError> {
        let mut id = type_id;
        for _ in 0..MAX_CHAIN {
            let ty = self.by_id(id)?;
            match ty.kind {
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = ty.size_or_type
                }
                _ => return Ok(ty),
            }
        }
        Err(BtfError::Malformed("typedefs refer to each other"))
    }

    fn by_id(&self, id: u32) -> Result<Type, BtfError> {
        let Some(index) = id.checked_sub(1) else {
            // Type 0 is void, and not in the section.
            return Ok(Type {
                at: 0,
                name: 0,
                kind: kind::VOID,
                flag: false,
                vlen: 0,
                size_or_type: 0,
            });
        };
        let beyond = || BtfError::Malformed("a type id is out of range");
        if id > self.count {
            return Err(beyond());
        }
        let index = index as usize;
        let mark = self.marks.get(index / TYPES_PER_MARK).ok_or_else(beyond)?;
        let mut ty = self.sections.type_at(*mark as usize)?;
        for _ in 0..index % TYPES_PER_MARK {
            ty = self
                .sections
                .type_at(self.sections.end(ty).ok_or_else(beyond)?)?;
        }
        Ok(ty)
    }

    /// Structs and unions of that name; forward declarations are not definitions.
    fn structs(&self, name: &str) -> Result<Vec<Type>, BtfError> {
        self.types_named(name, &[kind::STRUCT, kind::UNION])
    }

    fn types_named(&self, name: &str, kinds: &[u8]) -> Result<Vec<Type>, BtfError> {
        let mut found = Vec::new();
        if let Some(wanted) = self.names.iter().position(|known| *known == name) {
            for (_, id) in self.named.iter().filter(|(index, _)| *index == wanted) {
                let ty = self.by_id(*id)?;
                if kinds.contains(&ty.kind) {
                    found.push(ty);
                }
            }
            return Ok(found);
        }
        let mut at = 0;
        while at < self.sections.types_len() {
            let ty = self.sections.type_at(at)?;
            if kinds.contains(&ty.kind) && self.sections.is_named(ty.name, name)? {
                found.push(ty);
                bounded(&found)?;
            }
            at = self
                .sections
                .end(ty)
                .ok_or(BtfError::Malformed("a type is cut short"))?;
        }
        Ok(found)
    }
}

/// What [`Btf::find`] found.
struct Found {
    /// Bits from the start of the struct searched. At most 2^32 per nesting: the sum cannot wrap.
    bits: u64,
    bit_field: bool,
    type_id: u32,
}

/// Keeps hostile bytes from filling memory with definitions.
fn bounded<T>(definitions: &[T]) -> Result<(), BtfError> {
    match definitions.len() > MAX_DEFINITIONS {
        true => Err(BtfError::Malformed("a name has too many definitions")),
        false => Ok(()),
    }
}

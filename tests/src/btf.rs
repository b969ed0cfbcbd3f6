//! BTF: as much of the format (`Documentation/bpf/btf.rst` in the kernel) as it takes to say that a
//! member is where another one is, and to ask what a tracepoint passes.

use anyhow::{Context, Result, bail, ensure};

/// A kernel's BTF.
#[derive(Clone, Debug)]
pub struct Btf {
    /// The file.
    pub bytes: Vec<u8>,
    strings: usize,
    /// Where each type begins; the first has the id 1.
    types: Vec<usize>,
}

/// A member as it is written, and where in the whole structure the part begins that it is in.
#[derive(Clone, Copy)]
struct Member {
    at: usize,
    base_bits: u32,
}

const POINTER: u32 = 2;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const TYPEDEF: u32 = 8;

impl Btf {
    /// Reads that of the running kernel.
    ///
    /// # Errors
    /// When it has none, or of another shape.
    pub fn of_this_kernel() -> Result<Self> {
        let bytes = std::fs::read("/sys/kernel/btf/vmlinux").context("reading the kernel's BTF")?;
        let mut btf = Self {
            bytes,
            strings: 0,
            types: Vec::new(),
        };
        ensure!(btf.bytes.get(..2) == Some(&[0x9f, 0xeb]), "it is no BTF");
        let header = btf.word(4)? as usize;
        let mut at = header + btf.word(8)? as usize;
        let end = at + btf.word(12)? as usize;
        btf.strings = header + btf.word(16)? as usize;
        while at < end {
            btf.types.push(at);
            at += 12 + btf.tail(at)?;
        }
        Ok(btf)
    }

    /// Says that `member` of a structure is where `other` is.
    ///
    /// # Errors
    /// When the structure does not have both.
    pub fn misplace(&mut self, structure: &str, member: &str, other: &str) -> Result<()> {
        let found = |name: &str| {
            let find = || {
                for at in &self.types {
                    if self.kind(*at)? == STRUCT
                        && self.is_named(*at, structure)?
                        && let Some(member) = self.member(*at, 0, name)?
                    {
                        return Ok(member);
                    }
                }
                bail!("no struct {structure} has a member {name}")
            };
            find()
        };
        let (from, to) = (found(member)?, found(other)?);
        let bits = (to.base_bits + (self.word(to.at + 8)? & 0xff_ffff))
            .checked_sub(from.base_bits)
            .with_context(|| format!("{other} is before the part that {member} is in"))?;
        self.bytes[from.at + 8..from.at + 12].copy_from_slice(&bits.to_le_bytes());
        Ok(())
    }

    /// Whether a tracepoint passes a pointer first.
    ///
    /// # Errors
    /// When there is no such tracepoint.
    pub fn passes_a_pointer(&self, tracepoint: &str) -> Result<bool> {
        let name = format!("btf_trace_{tracepoint}");
        for at in &self.types {
            if self.kind(*at)? == TYPEDEF && self.is_named(*at, &name)? {
                // A pointer to a function, of which the first parameter is `void *` everywhere.
                let function = self.type_at(self.type_at(at + 8)? + 8)?;
                ensure!(self.count(function)? > 1, "{tracepoint} passes nothing");
                let first = function + 12 + 8;
                return Ok(self.kind(self.type_at(first + 4)?)? == POINTER);
            }
        }
        bail!("no tracepoint {tracepoint}")
    }

    /// The type whose id is at `at`.
    fn type_at(&self, at: usize) -> Result<usize> {
        let found = self.types.get((self.word(at)? as usize).wrapping_sub(1));
        found.copied().context("a type that is none")
    }

    /// A member, also of a part without a name.
    fn member(&self, structure: usize, base_bits: u32, name: &str) -> Result<Option<Member>> {
        for index in 0..self.count(structure)? {
            let at = structure + 12 + 12 * index;
            if self.is_named(at, name)? {
                return Ok(Some(Member { at, base_bits }));
            }
            let inner = self
                .types
                .get((self.word(at + 4)? as usize).wrapping_sub(1));
            if let Some(inner) = inner
                && self.is_named(at, "")?
                && matches!(self.kind(*inner)?, STRUCT | UNION)
            {
                let base_bits = base_bits + (self.word(at + 8)? & 0xff_ffff);
                if let Some(found) = self.member(*inner, base_bits, name)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// How many bytes follow the twelve that all types have.
    fn tail(&self, at: usize) -> Result<usize> {
        let count = self.count(at)?;
        Ok(match self.kind(at)? {
            // An integer, a variable, a tag of a declaration
            1 | 14 | 17 => 4,
            // An array
            3 => 12,
            // Members, sections' variables, values of 64 bits
            STRUCT | UNION | 15 | 19 => 12 * count,
            // Values, parameters
            6 | 13 => 8 * count,
            POINTER | 7..=12 | 16 | 18 => 0,
            kind => bail!("BTF of the unknown kind {kind}"),
        })
    }

    fn kind(&self, at: usize) -> Result<u32> {
        Ok(self.word(at + 4)? >> 24 & 0x7f)
    }

    fn count(&self, at: usize) -> Result<usize> {
        Ok((self.word(at + 4)? & 0xff_ffff) as usize)
    }

    fn is_named(&self, at: usize, name: &str) -> Result<bool> {
        let text = self.bytes.get(self.strings + self.word(at)? as usize..);
        let text = text.context("a name beyond the end")?;
        Ok(text.get(..name.len()) == Some(name.as_bytes()) && text.get(name.len()) == Some(&0))
    }

    fn word(&self, at: usize) -> Result<u32> {
        let bytes = self.bytes.get(at..at + 4).context("it ends too early")?;
        Ok(u32::from_le_bytes(bytes.try_into()?))
    }
}

//! Small readers over bytes.

/// Reads fields off the front of a line. A field that does not match yields `None`.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    /// Steps over `tag`.
    pub(super) fn tag(&mut self, tag: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(tag)?;
        Some(())
    }

    /// The bytes before `end`, which is stepped over.
    pub(super) fn until(&mut self, end: &[u8]) -> Option<&'a [u8]> {
        let at = match end {
            [byte] => memchr::memchr(*byte, self.0),
            _ => memchr::memmem::find(self.0, end),
        }?;
        let field = &self.0[..at];
        self.0 = &self.0[at + end.len()..];
        Some(field)
    }

    pub(super) fn spaces(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    /// Decimal digits (`%lu`).
    pub(super) fn unsigned(&mut self) -> Option<u64> {
        let (mut value, mut digits) = (0_u64, 0);
        for byte in self.0.iter().take_while(|b| b.is_ascii_digit()) {
            value = value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
            digits += 1;
        }
        self.0 = &self.0[digits..];
        (digits > 0).then_some(value)
    }

    /// Decimal digits with an optional minus (`%d`).
    pub(super) fn signed(&mut self) -> Option<i64> {
        match self.0.strip_prefix(b"-") {
            Some(rest) => {
                let mut digits = Cursor(rest);
                let value = 0i64.checked_sub_unsigned(digits.unsigned()?)?;
                *self = digits;
                Some(value)
            }
            None => i64::try_from(self.unsigned()?).ok(),
        }
    }

    /// A signed field that must fit `T`.
    pub(super) fn narrow<T: TryFrom<i64>>(&mut self) -> Option<T> {
        T::try_from(self.signed()?).ok()
    }

    /// A user id. mm/oom_kill.c prints some with `%d`: 4294967294 comes as `-2`.
    pub(super) fn uid(&mut self) -> Option<u32> {
        let value = self.signed()?;
        u32::try_from(value)
            .ok()
            .or_else(|| i32::try_from(value).ok().map(i32::cast_unsigned))
    }

    /// `%lukB`, as bytes.
    pub(super) fn kb_as_bytes(&mut self) -> Option<u64> {
        let kb = self.unsigned()?;
        self.tag(b"kB")?;
        kb.checked_mul(1024)
    }
}

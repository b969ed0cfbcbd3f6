//! Standard output, as one sink among others.

use std::io::{self, Write as _};

use serde::{Deserialize, Serialize};

use super::{Failure, encode};
use crate::{delivery::Item, format::Format};

/// How it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How records are written.
    pub format: Format,
}

/// Standard output.
pub(super) struct Sink {
    settings: Settings,
    bytes: Vec<u8>,
    begun: bool,
}

impl Sink {
    pub(super) const fn new(settings: Settings) -> Self {
        Self {
            settings,
            bytes: Vec::new(),
            begun: false,
        }
    }
}

impl super::Sink for Sink {
    fn send(&mut self, items: &[Item]) -> Result<(), Failure> {
        self.bytes.clear();
        if !self.begun {
            self.settings.format.begin(&mut self.bytes);
        }
        for item in items {
            encode(self.settings.format, item, &mut self.bytes)?;
        }
        let mut out = io::stdout().lock();
        out.write_all(&self.bytes)
            .and_then(|()| out.flush())
            .map_err(|error| Failure::later(format!("standard output: {error}")))?;
        self.begun = true;
        Ok(())
    }
}

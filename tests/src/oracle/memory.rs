//! What a report says of the machine's memory (`show_free_areas` in `mm/show_mem.c`, once in
//! `mm/page_alloc.c`).

use std::collections::BTreeMap;

use anyhow::{Context, Result};

/// The machine's memory.
#[derive(Clone, Debug, Default)]
pub struct MachineMemory {
    /// Pages by use: `active_anon`, `shmem`, `free`, …
    pub pages: BTreeMap<String, u64>,
    /// The zones, in order.
    pub zones: Vec<Zone>,
    /// "Free swap  = 0kB".
    pub swap_free_bytes: Option<u64>,
    /// "Total swap = 0kB".
    pub swap_total_bytes: Option<u64>,
}

/// A zone.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    /// Its node.
    pub node: u32,
    /// Its name.
    pub name: String,
    /// Bytes by name: `free`, `min`, `managed`, …
    pub bytes: BTreeMap<String, u64>,
    /// Pages, by the type of zone.
    pub lowmem_reserve: Vec<u64>,
    /// Free blocks, by order, and the size of each.
    pub blocks: Vec<(u64, u64)>,
}

impl MachineMemory {
    /// Takes a message of the report, if it is about the machine's memory.
    ///
    /// # Errors
    /// When it has an unknown shape.
    pub(super) fn line(&mut self, text: &str) -> Result<()> {
        let shown = || format!("the line {text:?}");
        if text.starts_with("active_anon:") {
            for (name, value) in numbers(text) {
                self.pages.insert(name.to_owned(), value);
            }
        } else if let Some(rest) = text.strip_prefix("Node ") {
            let (node, rest) = rest.split_once(' ').with_context(shown)?;
            let Some((name, rest)) = rest.split_once(' ') else {
                return Ok(());
            };
            if rest.starts_with("free:") {
                self.zones.push(Zone {
                    node: node.parse().with_context(shown)?,
                    name: name.to_owned(),
                    bytes: numbers(rest)
                        .map(|(name, kb)| (name.to_owned(), kb * 1024))
                        .collect(),
                    ..Zone::default()
                });
            } else if let Some(name) = name.strip_suffix(':') {
                let node: u32 = node.parse().with_context(shown)?;
                let zone = self
                    .zones
                    .iter_mut()
                    .find(|zone| zone.node == node && zone.name == name)
                    .with_context(shown)?;
                let (blocks, _) = rest.split_once(" = ").with_context(shown)?;
                zone.blocks = blocks
                    .split(' ')
                    .filter_map(|word| word.strip_suffix("kB")?.split_once('*'))
                    .map(|(count, kb)| Ok((count.parse()?, kb.parse::<u64>()? * 1024)))
                    .collect::<Result<_>>()
                    .with_context(shown)?;
            }
        } else if let Some(rest) = text.strip_prefix("lowmem_reserve[]: ") {
            let zone = self.zones.last_mut().with_context(shown)?;
            zone.lowmem_reserve = rest
                .split_whitespace()
                .map(str::parse)
                .collect::<Result<_, _>>()
                .with_context(shown)?;
        } else if let Some(rest) = text.strip_prefix("Free swap  = ") {
            self.swap_free_bytes = Some(kb(rest).with_context(shown)?);
        } else if let Some(rest) = text.strip_prefix("Total swap = ") {
            self.swap_total_bytes = Some(kb(rest).with_context(shown)?);
        }
        Ok(())
    }
}

fn kb(text: &str) -> Result<u64> {
    let kb: u64 = text.strip_suffix("kB").context("no kB")?.parse()?;
    Ok(kb * 1024)
}

/// `name:number` words, whatever unit follows the number.
fn numbers(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.split_whitespace().filter_map(|word| {
        let (name, value) = word.split_once(':')?;
        let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        Some((name, digits.parse().ok()?))
    })
}

//! Amounts, names and paths as people write them.

/// An amount of memory with the digits that count.
pub fn amount(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return in_unit(value, unit);
        }
        value /= 1024.0;
    }
    in_unit(value, "TiB")
}

fn in_unit(value: f64, unit: &str) -> String {
    let digits = if unit == "B" || value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$} {unit}")
}

/// A process: its name and its id, as far as known.
pub fn process(comm: Option<&str>, pid: Option<u32>) -> String {
    match (comm, pid) {
        (Some(comm), Some(pid)) => format!("{comm} (pid {pid})"),
        (Some(comm), None) => comm.to_owned(),
        (None, Some(pid)) => format!("pid {pid}"),
        (None, None) => "a process".to_owned(),
    }
}

/// A path of at most `most` characters: the middle of a longer one is left out.
pub fn brief(path: &str, most: usize) -> String {
    let length = path.chars().count();
    if length <= most {
        return path.to_owned();
    }
    let head = most / 4;
    let tail = most.saturating_sub(head + 1);
    path.chars()
        .take(head)
        .chain(['…'])
        .chain(path.chars().skip(length - tail))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Amounts are short, and exact where they are small.
    #[test]
    fn amounts_are_short() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (20 << 20, "20.0 MiB"),
            (512 << 20, "512 MiB"),
            (24_u64 << 30, "24.0 GiB"),
            (3 << 50, "3072 TiB"),
        ] {
            assert_eq!(amount(bytes), expected);
        }
    }

    /// A long path keeps its two ends.
    #[test]
    fn long_paths_keep_their_ends() {
        let long = format!("/first/{}/last", "ü".repeat(300));
        let text = brief(&long, 100);
        assert!(
            text.starts_with("/first/") && text.ends_with("/last"),
            "{text}"
        );
        assert_eq!(text.chars().count(), 100);
        assert_eq!(brief("/a", 100), "/a");
    }
}

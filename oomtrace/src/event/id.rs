//! Deterministic names: the same kill, told twice, has the same name.

/// The id of a kill: boot id, time of the kill on the kernel's clock (`CLOCK_BOOTTIME`,
/// nanoseconds), process id, and start time of the process (same clock).
pub fn event_id(boot_id: &str, time_ns: u64, pid: u32, start_ns: u64) -> String {
    format!("{}-{time_ns:x}-{pid:x}-{start_ns:x}", compact(boot_id))
}

/// The id of a decision: boot id and the time it began, on the same clock.
pub fn oom_id(boot_id: &str, time_ns: u64) -> String {
    format!("{}-{time_ns:x}", compact(boot_id))
}

fn compact(boot_id: &str) -> String {
    boot_id.chars().filter(char::is_ascii_hexdigit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id depends on its four parts only, and each of them changes it.
    #[test]
    fn event_ids_are_deterministic_and_distinct() {
        let boot = "4f2bb5a4-8c5e-4f70-a1a5-7c1b7e3f4a10";
        let id = event_id(boot, 1_000, 42, 7);
        assert_eq!(id, "4f2bb5a48c5e4f70a1a57c1b7e3f4a10-3e8-2a-7");
        assert_ne!(id, event_id(boot, 1_001, 42, 7));
        assert_ne!(id, event_id(boot, 1_000, 43, 7));
        assert_ne!(id, event_id(boot, 1_000, 42, 8));
        assert_ne!(
            id,
            event_id("4f2bb5a4-8c5e-4f70-a1a5-7c1b7e3f4a11", 1_000, 42, 7)
        );
    }
}

//! Allocation flags by name, in the kernel's own notation.
//!
//! The kernel prints the names with its report. Where the report is missing they are derived
//! from the mask by the kernel's table (`__def_gfpflag_names` in `include/trace/events/mmflags.h`).

/// Single flags (`include/linux/gfp_types.h`). The numbers below 23 have not changed from 5.10 to
/// 7.3, except that 9 fell out of use; those above depend on the configuration.
const FLAGS: [(&str, u32); 22] = [
    ("__GFP_HIGHMEM", 1 << 1),
    ("__GFP_HIGH", 1 << 5),
    ("__GFP_IO", 1 << 6),
    ("__GFP_FS", 1 << 7),
    ("__GFP_NOWARN", 1 << 13),
    ("__GFP_RETRY_MAYFAIL", 1 << 14),
    ("__GFP_NOFAIL", 1 << 15),
    ("__GFP_NORETRY", 1 << 16),
    ("__GFP_COMP", 1 << 18),
    ("__GFP_ZERO", 1 << 8),
    ("__GFP_NOMEMALLOC", 1 << 19),
    ("__GFP_MEMALLOC", 1 << 17),
    ("__GFP_HARDWALL", 1 << 20),
    ("__GFP_THISNODE", 1 << 21),
    ("__GFP_RECLAIMABLE", 1 << 4),
    ("__GFP_MOVABLE", 1 << 3),
    ("__GFP_ACCOUNT", 1 << 22),
    ("__GFP_WRITE", 1 << 12),
    ("__GFP_RECLAIM", RECLAIM),
    ("__GFP_DIRECT_RECLAIM", 1 << 10),
    ("__GFP_KSWAPD_RECLAIM", 1 << 11),
    ("__GFP_DMA32", 1 << 2),
];

const RECLAIM: u32 = 1 << 10 | 1 << 11;
const IO: u32 = 1 << 6;
const FS: u32 = 1 << 7;
const KERNEL: u32 = RECLAIM | IO | FS;
const USER: u32 = KERNEL | 1 << 20;
const HIGHUSER: u32 = USER | 1 << 1;
const MOVABLE: u32 = HIGHUSER | 1 << 3;
const TRANSHUGE_LIGHT: u32 = (MOVABLE | 1 << 18 | 1 << 19 | 1 << 13) & !RECLAIM;

/// Combinations, tried first and in this order, as the kernel does.
const COMBINATIONS: [(&str, u32); 13] = [
    ("GFP_TRANSHUGE", TRANSHUGE_LIGHT | 1 << 10),
    ("GFP_TRANSHUGE_LIGHT", TRANSHUGE_LIGHT),
    ("GFP_HIGHUSER_MOVABLE", MOVABLE),
    ("GFP_HIGHUSER", HIGHUSER),
    ("GFP_USER", USER),
    ("GFP_KERNEL_ACCOUNT", KERNEL | 1 << 22),
    ("GFP_KERNEL", KERNEL),
    ("GFP_NOFS", RECLAIM | IO),
    ("GFP_ATOMIC", 1 << 5 | 1 << 11),
    ("GFP_NOIO", RECLAIM),
    ("GFP_NOWAIT", 1 << 11 | 1 << 13),
    ("GFP_DMA", 1),
    ("GFP_DMA32", 1 << 2),
];

/// The names in a mask; bits without a name come last, in hexadecimal.
pub fn gfp_flag_names(mask: u32) -> Vec<String> {
    let mut rest = mask;
    let mut names = Vec::new();
    for (name, bits) in COMBINATIONS.iter().chain(&FLAGS) {
        if rest & bits == *bits {
            names.push((*name).to_owned());
            rest &= !bits;
        }
    }
    if rest != 0 {
        names.push(format!("{rest:#x}"));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Masks and names as real kernels print them side by side.
    #[test]
    fn names_what_the_kernel_prints() {
        for (mask, names) in [
            (0xcc0, "GFP_KERNEL"),
            (0x0014_0cca, "GFP_HIGHUSER_MOVABLE|__GFP_COMP"),
            (0x0010_0cca, "GFP_HIGHUSER_MOVABLE"),
            (0x0010_0cc2, "GFP_HIGHUSER"),
            (0x0040_0cc0, "GFP_KERNEL_ACCOUNT"),
            (0xcc0 | 0x8000_0000, "GFP_KERNEL|0x80000000"),
        ] {
            assert_eq!(gfp_flag_names(mask).join("|"), names, "{mask:#x}");
        }
    }
}

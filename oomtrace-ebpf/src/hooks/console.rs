//! `trace_console(const char *text, size_t len)` (`include/trace/events/printk.h`): the kernel logs
//! something.
//!
//! Readers of `/dev/kmsg` are woken at the next tick. An OOM report is printed before the victim is
//! marked: a tracer that is woken by its first line has read most of it by then.

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel, macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use oomtrace_common::{RecordKind, ReportBegin};

use crate::maps;

/// Of the line "NAME invoked oom-killer: …" (`dump_header` in `mm/oom_kill.c`).
const WORDS: u64 = u64::from_le_bytes(*b"d oom-ki");

/// The name has up to 15 bytes. Kernels before 5.19 pass the line as the console has it, with the
/// level, the time and perhaps the caller before the name.
const FRONT_BYTES: usize = 80;

#[raw_tracepoint(tracepoint = "console")]
fn console(ctx: RawTracePointContext) -> u32 {
    let mut text = [0_u8; FRONT_BYTES];
    // SAFETY: the helper refuses addresses that cannot be read.
    let read = unsafe {
        bpf_probe_read_kernel(
            text.as_mut_ptr().cast(),
            FRONT_BYTES as u32,
            ctx.arg::<u64>(0) as *const _,
        )
    };
    if read != 0 {
        return 0;
    }
    let mut window = 0;
    for byte in text {
        window = window >> 8 | u64::from(byte) << 56;
        if window == WORDS {
            let size = size_of::<ReportBegin>();
            let record = ReportBegin {
                header: maps::header(RecordKind::ReportBegin, size),
            };
            // SAFETY: a whole record.
            unsafe { maps::send(RecordKind::ReportBegin, &raw const record, size) };
            return 0;
        }
    }
    0
}

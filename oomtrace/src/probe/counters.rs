//! The programs' counters, read through shared memory: no system call, and no capability.

use std::{
    io, ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::Map;
use oomtrace_common::Counters;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The map of counters, mapped into this process.
pub struct SharedCounters {
    page: *mut Counters,
}

impl SharedCounters {
    /// Maps the counters.
    ///
    /// # Errors
    /// When the kernel refuses the mapping.
    pub fn new(map: &Map) -> io::Result<Self> {
        let Map::Array(data) = map else {
            return Err(io::Error::other("the map of counters is not an array"));
        };
        // SAFETY: a fresh mapping; nothing of this process is replaced.
        let page = unsafe {
            mmap(
                ptr::null_mut(),
                size_of::<Counters>(),
                ProtFlags::READ,
                MapFlags::SHARED,
                data.fd(),
                0,
            )?
        };
        Ok(Self { page: page.cast() })
    }

    /// The counters at this moment.
    pub fn read(&self) -> Counters {
        let mut counters = Counters::default();
        // SAFETY: the mapping holds a `Counters` for as long as `self` lives; both are arrays of
        // `u64`, and the programs only ever add to them atomically.
        unsafe {
            let source = self.page.cast::<AtomicU64>();
            let target = (&raw mut counters).cast::<u64>();
            for index in 0..size_of::<Counters>() / size_of::<u64>() {
                target
                    .add(index)
                    .write((*source.add(index)).load(Ordering::Relaxed));
            }
        }
        counters
    }
}

impl Drop for SharedCounters {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made.
        let _ = unsafe { munmap(self.page.cast(), size_of::<Counters>()) };
    }
}

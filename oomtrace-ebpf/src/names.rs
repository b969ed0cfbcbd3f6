//! Copies paths into a record's tail, name by name, innermost first.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use oomtrace_common::{DATA_BYTES, DATA_SLACK, NAME_BYTES};

use crate::{
    kernel::{Address, Place, offset},
    maps::TailState,
};

/// Components a path may have; deeper ones are cut.
const MAX_DEPTH: usize = 32;

/// The tail of a record, filled from its start.
pub struct Tail<'a> {
    bytes: &'a mut [u8; DATA_BYTES + DATA_SLACK],
    state: *mut TailState,
}

/// A member of the state, read and written as it stands.
macro_rules! state {
    ($tail:ident.$member:ident) => {
        // SAFETY: points to map memory.
        unsafe { (&raw const (*$tail.state).$member).read_volatile() }
    };
    ($tail:ident.$member:ident = $value:expr) => {{
        let value = $value;
        // SAFETY: as above.
        unsafe { (&raw mut (*$tail.state).$member).write_volatile(value) }
    }};
}

impl<'a> Tail<'a> {
    #[inline(always)]
    pub fn new(bytes: &'a mut [u8; DATA_BYTES + DATA_SLACK], state: *mut TailState) -> Self {
        let tail = Self { bytes, state };
        state!(tail.used = 0);
        tail
    }

    /// Bytes filled so far.
    #[inline(always)]
    pub fn used(&self) -> u32 {
        state!(self.used)
    }

    /// Bytes filled so far, as a length the verifier accepts.
    #[inline(always)]
    pub fn bounded(&self) -> usize {
        let used = self.used() as usize;
        if used > DATA_BYTES + DATA_SLACK {
            0
        } else {
            used
        }
    }

    /// Copies one name with its NUL; false when there is no room or it cannot be read.
    #[inline(always)]
    fn push(&mut self, name: Address) -> bool {
        let used = self.used() as usize;
        if used >= DATA_BYTES {
            return false;
        }
        // SAFETY: `used` is within DATA_BYTES, and behind that there is room for one name.
        let copied = unsafe {
            let place = self.bytes.as_mut_ptr().add(used);
            bpf_probe_read_kernel_str(place.cast(), NAME_BYTES as u32, name.0 as *const _)
        };
        if copied <= 0 {
            return false;
        }
        state!(self.used = used as u32 + copied as u32);
        true
    }

    /// Copies the path of a cgroup's kernfs node; false when its outermost part is missing.
    #[inline(always)]
    pub fn push_kernfs(&mut self, mut node: Address) -> bool {
        for _ in 0..MAX_DEPTH {
            // The root of the hierarchy has no parent, and no name worth telling.
            let parent = node.follow(offset!(kernfs_parent));
            if parent.is_null() {
                return true;
            }
            if !self.push(node.follow(offset!(kernfs_name))) {
                return false;
            }
            node = parent;
        }
        false
    }

    /// Copies the path of an open file, up to the root of its mount namespace; false when its
    /// outermost part is missing.
    #[inline(always)]
    pub fn push_file(&mut self, file: Address) -> bool {
        state!(self.dentry = file.read(offset!(file_path_dentry)));
        state!(self.mount = file.read(offset!(file_path_mnt)));
        for _ in 0..MAX_DEPTH {
            let dentry = Address(state!(self.dentry));
            let mnt = Address(state!(self.mount));
            if mnt.follow(offset!(vfsmount_root)) == dentry {
                let mount = mnt.container(offset!(mount_mnt));
                let parent = mount.follow(offset!(mount_parent));
                if parent == mount {
                    return true;
                }
                state!(self.dentry = mount.read(offset!(mount_mountpoint)));
                state!(self.mount = parent.member(offset!(mount_mnt)).0);
                continue;
            }
            if !self.push(dentry.follow(offset!(dentry_name))) {
                return false;
            }
            let parent = dentry.follow(offset!(dentry_parent));
            // A file that was never in a directory (memfd), or a root that is mounted nowhere, of the
            // name `/`.
            if parent == dentry {
                return true;
            }
            state!(self.dentry = parent.0);
        }
        false
    }
}

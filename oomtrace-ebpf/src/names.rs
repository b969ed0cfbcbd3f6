//! Copies paths into a record's tail, name by name, innermost first.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use oomtrace_common::{DATA_BYTES, DATA_SLACK, NAME_BYTES};

use crate::kernel::{Address, offset};

/// Components a path may have; deeper ones are cut.
const MAX_DEPTH: usize = 40;

/// The tail of a record, filled from its start.
///
/// How much is used is kept in map memory and not in a register: the verifier then knows nothing
/// of it, so that the paths through a loop end in the same state and need not all be walked.
pub struct Tail<'a> {
    bytes: &'a mut [u8; DATA_BYTES + DATA_SLACK],
    used: *mut u32,
}

impl<'a> Tail<'a> {
    #[inline(always)]
    pub fn new(bytes: &'a mut [u8; DATA_BYTES + DATA_SLACK], used: *mut u32) -> Self {
        let tail = Self { bytes, used };
        tail.set_used(0);
        tail
    }

    /// Bytes filled so far.
    #[inline(always)]
    pub fn used(&self) -> u32 {
        // SAFETY: points to map memory, as do the bytes.
        unsafe { self.used.read_volatile() }
    }

    #[inline(always)]
    fn set_used(&self, used: u32) {
        // SAFETY: as above.
        unsafe { self.used.write_volatile(used) }
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
        self.set_used(used as u32 + copied as u32);
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
        let mut dentry = file.follow(offset!(file_path_dentry));
        let mut mnt = file.follow(offset!(file_path_mnt));
        for depth in 0..MAX_DEPTH {
            if mnt.follow(offset!(vfsmount_root)) == dentry {
                let mount = mnt.container(offset!(mount_mnt));
                let parent = mount.follow(offset!(mount_parent));
                if parent == mount {
                    return !mount.is_null();
                }
                dentry = mount.follow(offset!(mount_mountpoint));
                mnt = parent.member(offset!(mount_mnt));
                continue;
            }
            let parent = dentry.follow(offset!(dentry_parent));
            let rootless = parent == dentry;
            // A file that was never in a directory (memfd) is its own parent, but has a name.
            if rootless && depth > 0 {
                return true;
            }
            if !self.push(dentry.follow(offset!(dentry_name))) {
                return false;
            }
            if rootless {
                return true;
            }
            dentry = parent;
        }
        false
    }
}

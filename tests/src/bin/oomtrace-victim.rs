//! A process to be killed by the OOM killer, in many ways.
//!
//! ```text
//! oomtrace-victim [--uid=N] [--comm=HEX] [--oom-score-adj=N] [--policy=NODE] MODE
//!   eat                 take anonymous memory until killed
//!   share MIB           take MIB of shared memory, then as `eat`
//!   hold MIB            take MIB, say "holding", and sleep
//!   hold-wide MIB       map a page of zeros many times over, then as `hold`
//!   leader-exits        the first thread exits, another one goes on as `eat`
//!   parent              a child goes on as `eat`; the parent outlives it
//!   storm N             N children one after another take memory until killed
//!   outlives N          has N children killed one after another by what it takes itself
//!   file PATH MIB       write a file of MIB and exit
//!   pipes               take a little, and fill pipes until killed: memory of the kernel's own
//!   shared-mm           another process shares its memory and sleeps; goes on as `eat`
//!   exit-hungry NODE LEFT
//!                       take all of a memory node but LEFT pages, say "holding", and exit in a way
//!                       that takes as many as it can
//!   bomb WIDTH N        WIDTH children at a time take memory, until N have been killed
//! ```
//! It says "ready" and waits for a byte on standard input before it takes anything, so that it can
//! be moved to a cgroup first. `--policy` binds its memory to one memory node of the machine.

use std::{
    ffi::CString,
    fs,
    io::{Read, Write},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    process::{Signal, WaitOptions},
    thread::{Gid, Uid},
};

/// Nobody is let take more than this.
const APPETITE: usize = 256 << 20;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oomtrace-victim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut mode = Vec::new();
    for argument in std::env::args().skip(1) {
        if let Some(adj) = argument.strip_prefix("--oom-score-adj=") {
            fs::write("/proc/self/oom_score_adj", adj).context("setting oom_score_adj")?;
        } else if let Some(digits) = argument.strip_prefix("--comm=") {
            set_comm(digits)?;
        } else if let Some(uid) = argument.strip_prefix("--uid=") {
            become_user(uid.parse().context("--uid")?)?;
        } else if let Some(node) = argument.strip_prefix("--policy=") {
            bind_to_node(node.parse().context("--policy")?)?;
        } else {
            mode.push(argument);
        }
    }
    let mode: Vec<&str> = mode.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<usize>().with_context(|| format!("{text:?}"));
    match mode[..] {
        ["eat"] => {
            wait_to_be_let_go("ready")?;
            eat()
        }
        ["share", mib] => {
            let bytes = number(mib)? << 20;
            wait_to_be_let_go("ready")?;
            take(bytes, libc::MAP_SHARED, libc::MADV_NOHUGEPAGE)?;
            eat()
        }
        ["hold" | "hold-wide", mib] => {
            let bytes = number(mib)? << 20;
            wait_to_be_let_go("ready")?;
            if mode[0] == "hold-wide" {
                map_zeros()?;
            }
            take(bytes, libc::MAP_PRIVATE, libc::MADV_NOHUGEPAGE)?;
            wait_to_be_let_go("holding")?;
            eat()
        }
        ["leader-exits"] => leader_exits(),
        ["parent"] => parent(),
        ["storm", kills] => storm(number(kills)?),
        ["outlives", kills] => outlives(number(kills)?),
        ["file", path, mib] => {
            let bytes = number(mib)? << 20;
            wait_to_be_let_go("ready")?;
            // A buffer at a time: the file is to fill the limit, not its writer.
            let mut content = std::io::repeat(1).take(bytes as u64);
            let mut file = fs::File::create(path).context("creating the file")?;
            std::io::copy(&mut content, &mut file).context("writing the file")?;
            Ok(())
        }
        ["pipes"] => pipes(),
        ["shared-mm"] => shared_mm(),
        ["exit-hungry", node, left] => exit_hungry(number(node)?, number(left)?),
        ["bomb", width, kills] => bomb(number(width)?, number(kills)?),
        _ => bail!("no such mode: {mode:?}"),
    }
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush().context("saying something")
}

fn wait_to_be_let_go(line: &str) -> Result<()> {
    say(line)?;
    // Not through std's buffer: parent and child may wait on the same pipe, a byte for each.
    let mut byte = [0];
    let read = rustix::io::read(std::io::stdin(), &mut byte).context("waiting")?;
    ensure!(read == 1, "standard input was closed");
    Ok(())
}

/// Maps memory and touches every page of it.
fn take(bytes: usize, sharing: i32, advice: i32) -> Result<()> {
    take_while(bytes, sharing, advice, |_| Ok(true))
}

/// Maps memory.
fn map(bytes: usize, flags: i32, file: i32) -> Result<*mut u8> {
    // SAFETY: a new mapping, of which nobody else knows.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            file,
            0,
        )
    };
    ensure!(
        start != libc::MAP_FAILED,
        "mmap: {}",
        std::io::Error::last_os_error()
    );
    Ok(start.cast())
}

/// Maps what is only read: that takes page tables, and none of the memory they are for. Whoever
/// walks over this address space is busy for a while.
fn map_zeros() -> Result<()> {
    const PAGES: usize = 1 << 17;
    let page = rustix::param::page_size();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let start = map(PAGES * page, flags, -1)?;
    // SAFETY: the mapping of above.
    unsafe { libc::madvise(start.cast(), PAGES * page, libc::MADV_NOHUGEPAGE) };
    for index in 0..PAGES {
        // SAFETY: within the mapping of above.
        unsafe { start.add(index * page).read_volatile() };
    }
    Ok(())
}

/// Maps memory and touches a page of it after the other, while `more` says so, to which it tells
/// how many it has.
fn take_while(
    bytes: usize,
    sharing: i32,
    advice: i32,
    mut more: impl FnMut(usize) -> Result<bool>,
) -> Result<()> {
    let start = map(bytes, sharing | libc::MAP_ANONYMOUS, -1)?;
    // Not every kernel has huge pages to advise about.
    // SAFETY: the mapping of above.
    unsafe { libc::madvise(start.cast(), bytes, advice) };
    for (count, offset) in (0..bytes).step_by(rustix::param::page_size()).enumerate() {
        if !more(count)? {
            break;
        }
        // SAFETY: within the mapping of above.
        unsafe { start.add(offset).write_volatile(1) };
    }
    Ok(())
}

/// Takes memory until killed: small pages, so that it grows by small steps and the numbers are the
/// same everywhere.
fn eat() -> Result<()> {
    eat_pages(libc::MADV_NOHUGEPAGE)
}

fn eat_pages(advice: i32) -> Result<()> {
    take(APPETITE, libc::MAP_PRIVATE, advice)?;
    bail!("took {APPETITE} bytes and was not killed")
}

fn leader_exits() -> Result<()> {
    // A leader that has exited can no longer be moved to a cgroup.
    wait_to_be_let_go("ready")?;
    let leader = std::process::id();
    std::thread::Builder::new()
        .name("worker".to_owned())
        .spawn(move || {
            if let Err(error) = work(leader) {
                eprintln!("oomtrace-victim: worker: {error:#}");
                std::process::exit(1);
            }
        })?;
    // The leader alone, and not the process.
    // SAFETY: this thread never runs again; what it owns stays until the process ends.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    bail!("the leader did not exit")
}

fn work(leader: u32) -> Result<()> {
    let state = || -> Result<bool> {
        let stat = fs::read_to_string(format!("/proc/{leader}/task/{leader}/stat"))?;
        Ok(stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('Z')))
    };
    while !state()? {
        std::thread::yield_now();
    }
    wait_to_be_let_go(&format!(
        "worker {}",
        rustix::thread::gettid().as_raw_nonzero()
    ))?;
    eat()
}

fn parent() -> Result<()> {
    // Once it may: only then is it, and so will be its child, in the cgroup.
    wait_to_be_let_go("ready")?;
    let child = fork()?;
    if child == 0 {
        wait_to_be_let_go(&format!("child {}", std::process::id()))?;
        return eat();
    }
    let (_, status) = rustix::process::waitpid(None, WaitOptions::empty())?.context("no child")?;
    let killed = status.terminating_signal() == Some(Signal::KILL.as_raw());
    wait_to_be_let_go(if killed { "survived" } else { "not-killed" })
}

/// Children one after another, as fast as they die.
fn storm(kills: usize) -> Result<()> {
    wait_to_be_let_go("ready")?;
    let mut victims = Vec::with_capacity(kills);
    for _ in 0..kills {
        let child = fork()?;
        if child == 0 {
            // The parent is in the same cgroup, and must not be chosen.
            fs::write("/proc/self/oom_score_adj", "1000").context("setting oom_score_adj")?;
            // Most of it at once: emulated machines take longer for page faults than for kills.
            return eat_pages(libc::MADV_HUGEPAGE);
        }
        let (_, status) =
            rustix::process::waitpid(None, WaitOptions::empty())?.context("no child")?;
        ensure!(
            status.terminating_signal() == Some(Signal::KILL.as_raw()),
            "a child ended otherwise: {status:?}"
        );
        victims.push(child.to_string());
    }
    wait_to_be_let_go(&format!("killed {}", victims.join(" ")))
}

/// Takes memory until a child that is to be chosen is dead, gives it back, and so on. Between two
/// children the kernel has time to use their memory again. It is to run on one processor, when
/// nobody else wants that: so a child that is killed is gone before its parent takes more.
fn outlives(kills: usize) -> Result<()> {
    const HELD: usize = 4 << 20;
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
    // While a victim's memory is still to be freed, it would be the next; and with pages of 16 KiB
    // the first, for oom_score_adj counts for nothing below 1000 pages. Not everybody may do it.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    wait_to_be_let_go("ready")?;
    let mut victims = Vec::with_capacity(kills);
    for _ in 0..kills {
        let (there, tell) = rustix::pipe::pipe()?;
        let child = fork()?;
        if child == 0 {
            fs::write("/proc/self/oom_score_adj", "1000").context("setting oom_score_adj")?;
            let parameters = libc::sched_param { sched_priority: 0 };
            // SAFETY: the kernel only reads the parameters.
            unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameters) };
            take(HELD, libc::MAP_PRIVATE, libc::MADV_NOHUGEPAGE)?;
            rustix::io::write(&tell, &[0])?;
            loop {
                // SAFETY: it takes nothing.
                unsafe { libc::pause() };
            }
        }
        drop(tell);
        ensure!(
            rustix::io::read(&there, &mut [0])? == 1,
            "a child died too early"
        );
        let start = map(APPETITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        // SAFETY: the mapping of above.
        unsafe { libc::madvise(start.cast(), APPETITE, libc::MADV_NOHUGEPAGE) };
        let mut pages = (0..APPETITE).step_by(rustix::param::page_size());
        let status = loop {
            let page = pages.next().context("no child was killed")?;
            // SAFETY: within the mapping of above.
            unsafe { start.add(page).write_volatile(1) };
            let ended = rustix::process::waitpid(None, WaitOptions::NOHANG)?;
            if let Some((_, status)) = ended {
                break status;
            }
        };
        // SAFETY: nobody knows of the mapping but this function, which is done with it.
        unsafe { libc::munmap(start.cast(), APPETITE) };
        ensure!(
            status.terminating_signal() == Some(Signal::KILL.as_raw()),
            "a child ended otherwise: {status:?}"
        );
        victims.push(child.to_string());
        std::thread::sleep(PAUSE);
    }
    wait_to_be_let_go(&format!("killed {}", victims.join(" ")))
}

/// Fills pipes until killed. What it takes itself is enough to show in approximate counts.
fn pipes() -> Result<()> {
    const PIPE: usize = 1 << 20;
    wait_to_be_let_go("ready")?;
    take(2 << 20, libc::MAP_PRIVATE, libc::MADV_NOHUGEPAGE)?;
    let bytes = vec![1; 64 << 10];
    for _ in 0..APPETITE / PIPE {
        let (reader, writer) = rustix::pipe::pipe()?;
        let size = rustix::pipe::fcntl_setpipe_size(&writer, PIPE)?;
        for _ in 0..size / bytes.len() {
            rustix::io::write(&writer, &bytes)?;
        }
        std::mem::forget((reader, writer));
    }
    bail!("filled pipes with {APPETITE} bytes and was not killed")
}

/// A process of its own, but for the memory.
fn shared_mm() -> Result<()> {
    extern "C" fn sleep(_: *mut libc::c_void) -> libc::c_int {
        loop {
            // SAFETY: it takes nothing, and nothing else is done with the memory of both.
            unsafe { libc::pause() };
        }
    }
    wait_to_be_let_go("ready")?;
    const STACK: usize = 64 << 10;
    let stack = map(STACK, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
    // SAFETY: the stack is its own, and grows down from its end.
    let other = unsafe {
        libc::clone(
            sleep,
            stack.add(STACK).cast(),
            libc::CLONE_VM | libc::SIGCHLD,
            std::ptr::null_mut(),
        )
    };
    ensure!(other > 0, "clone: {}", std::io::Error::last_os_error());
    wait_to_be_let_go(&format!("sharer {other}"))?;
    eat()
}

/// What a robust list holds (`struct robust_list` in `include/uapi/linux/futex.h`), with a lock
/// behind each entry.
#[repr(C)]
struct HeldLock {
    next: usize,
    futex: u32,
}

/// `struct robust_list_head`.
#[repr(C)]
struct LockList {
    first: usize,
    futex_offset: isize,
    pending: usize,
}

/// `ROBUST_LIST_LIMIT` in `kernel/futex`: the kernel looks at no more of them.
const LOCKS: usize = 2048;

/// When a process exits the kernel marks the locks it still holds, wherever they are. Here they
/// are in private pages of a file, so that every mark takes a page, from an exiting task.
fn exit_hungry(node: usize, left: usize) -> Result<()> {
    let page = rustix::param::page_size();
    let file = rustix::fs::memfd_create("locks", rustix::fs::MemfdFlags::empty())?;
    rustix::fs::ftruncate(&file, (LOCKS * page) as u64)?;
    let file = std::os::fd::AsRawFd::as_raw_fd(&file);
    let shared = map(LOCKS * page, libc::MAP_SHARED, file)?;
    let private = map(LOCKS * page, libc::MAP_PRIVATE, file)?;
    let head = Box::leak(Box::new(LockList {
        first: private as usize,
        futex_offset: std::mem::offset_of!(HeldLock, futex).cast_signed(),
        pending: 0,
    }));
    for lock in 0..LOCKS {
        let next = if lock + 1 < LOCKS {
            private as usize + (lock + 1) * page
        } else {
            std::ptr::from_ref(head) as usize
        };
        let held = HeldLock {
            next,
            futex: std::process::id(),
        };
        // SAFETY: within the mapping, on a page of its own.
        unsafe { shared.add(lock * page).cast::<HeldLock>().write(held) };
        // SAFETY: as above; it is read, so that only the mark will take a page.
        unsafe { private.add(lock * page).read_volatile() };
    }
    wait_to_be_let_go("ready")?;
    bind_to_node(u32::try_from(node)?)?;
    take_while(
        3 * APPETITE,
        libc::MAP_PRIVATE,
        libc::MADV_NOHUGEPAGE,
        |count| Ok(count % 64 != 0 || free_above_watermark(node)? > left as u64),
    )?;
    wait_to_be_let_go("holding")?;
    // SAFETY: head and list are never freed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_set_robust_list,
            std::ptr::from_ref(head),
            size_of::<LockList>(),
        )
    };
    ensure!(
        result == 0,
        "set_robust_list: {}",
        std::io::Error::last_os_error()
    );
    // SAFETY: it does not return.
    unsafe { libc::_exit(0) }
}

/// Free pages of a memory node beyond those that ordinary allocations must leave.
fn free_above_watermark(node: usize) -> Result<u64> {
    let text = fs::read_to_string("/proc/zoneinfo").context("reading /proc/zoneinfo")?;
    let heading = format!("Node {node}, ");
    let (mut free, mut min) = (0, 0);
    let mut here = false;
    for line in text.lines() {
        if line.starts_with("Node ") {
            here = line.starts_with(&heading);
        }
        let mut words = line.split_whitespace();
        match (here, words.next(), words.next(), words.next()) {
            (true, Some("pages"), Some("free"), Some(pages)) => free += pages.parse::<u64>()?,
            (true, Some("min"), Some(pages), None) => min += pages.parse::<u64>()?,
            _ => {}
        }
    }
    Ok(free.saturating_sub(min))
}

/// Children side by side, each replaced as it dies.
fn bomb(width: usize, kills: usize) -> Result<()> {
    wait_to_be_let_go("ready")?;
    let (mut killed, mut children) = (0, Vec::new());
    while killed < kills {
        if children.len() < width {
            let child = fork()?;
            if child == 0 {
                // The parent is not to be chosen, and its children are.
                fs::write("/proc/self/oom_score_adj", "0").context("setting oom_score_adj")?;
                return eat();
            }
            children.push(child);
            continue;
        }
        let (pid, status) =
            rustix::process::waitpid(None, WaitOptions::empty())?.context("none")?;
        children.retain(|child| *child != pid.as_raw_pid());
        killed += usize::from(status.terminating_signal() == Some(Signal::KILL.as_raw()));
    }
    for child in children {
        let pid = rustix::process::Pid::from_raw(child).context("its id")?;
        rustix::process::kill_process(pid, Signal::KILL)?;
        rustix::process::waitpid(Some(pid), WaitOptions::empty())?;
    }
    wait_to_be_let_go("killed")
}

fn fork() -> Result<i32> {
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    ensure!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    Ok(child)
}

fn set_comm(digits: &str) -> Result<()> {
    ensure!(
        digits.is_ascii() && digits.len().is_multiple_of(2),
        "--comm takes hexadecimal bytes"
    );
    let bytes = (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16))
        .collect::<Result<Vec<u8>, _>>()?;
    rustix::thread::set_name(&CString::new(bytes)?).context("setting the name")
}

/// Binds the memory this process takes from now on to one node.
fn bind_to_node(node: u32) -> Result<()> {
    let nodes: libc::c_ulong = 1 << node;
    // SAFETY: the mask lives until the call returns, and is as long as said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            libc::MPOL_BIND,
            &raw const nodes,
            libc::c_ulong::BITS,
        )
    };
    ensure!(
        result == 0,
        "set_mempolicy: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

fn become_user(uid: u32) -> Result<()> {
    rustix::thread::set_thread_groups(&[])?;
    let (gid, uid) = (Gid::from_raw(uid), Uid::from_raw(uid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).context("changing the user")
}

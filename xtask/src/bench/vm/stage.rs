//! The stage: a memory cgroup full of candidates, and a task in it that invokes the OOM killer
//! again and again.
//!
//! The victim is another task than the trigger, so the trigger lives on and can tell how long its
//! own page fault took. It tells the processor time of its own thread: the victim's exit, which it
//! waits for, is not in it.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, PipeWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    ptr,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    event::pause,
    fs::OFlags,
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous},
    param::page_size,
    process::{Pid, Signal, WaitOptions, waitpid},
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

use crate::bench::tool::boottime_ns;

/// Memory that a victim holds, and the most the trigger asks for.
const VICTIM_PAGES: usize = 256;
/// Candidates have more or less of this memory mapped, which they share.
const SHARED_PAGES: usize = 512;
/// The limit is so far above what is used when a kill begins.
const ROOM_PAGES: u64 = 16;

/// How a kill went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Who was killed.
    pub victim: u32,
    /// Processor time of the page fault that invoked the OOM killer.
    pub fault_ns: u64,
    /// When the kernel said that the victim was killed, on `CLOCK_BOOTTIME`.
    pub killed_ns: u64,
    /// Whether the kernel printed its report.
    pub reported: bool,
}

impl Kill {
    /// Reads the line that the stage writes.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        Some(Self {
            victim: words.next()?.parse().ok()?,
            fault_ns: words.next()?.parse().ok()?,
            killed_ns: words.next()?.parse().ok()?,
            reported: words.next()?.parse().ok()?,
        })
    }
}

/// A processor for the stage, and one for everybody else.
#[derive(Clone, Copy)]
pub enum Place {
    Elsewhere = 0,
    Stage = 1,
}

/// Where this process and its future children run.
pub fn run_on(place: Place) {
    let mut cpus = CpuSet::new();
    cpus.set(place as usize);
    // Where there is one processor, all are on it.
    let _ = sched_setaffinity(None, &cpus);
}

/// Sets the stage and says "ready"; then, for each byte on standard input, has a victim killed
/// and tells how that went. The candidates have the same standard output, so it does not end when
/// something fails: that is told, too.
pub fn run(candidates: usize) -> Result<()> {
    play(candidates).inspect_err(|error| println!("{error:#}"))
}

fn play(candidates: usize) -> Result<()> {
    let cgroup = Path::new("/sys/fs/cgroup").join(format!("candidates-{candidates}"));
    fs::create_dir(&cgroup).with_context(|| format!("making {}", cgroup.display()))?;
    fs::write(cgroup.join("cgroup.procs"), "0").context("entering the cgroup")?;
    run_on(Place::Stage);
    let shared = Pages::map(SHARED_PAGES, MapFlags::SHARED)?;
    let (mut there, mut tell) = std::io::pipe()?;
    // The trigger and the victim are candidates, too.
    for index in 0..candidates - 2 {
        if fork()?.is_none() {
            // All sizes, in no order.
            shared.touch(index.wrapping_mul(7919) % SHARED_PAGES);
            wait_forever(&mut tell)
        }
        there.read_exact(&mut [0]).context("a candidate died")?;
    }
    let mut trigger = Trigger {
        appetite: Pages::map(VICTIM_PAGES, MapFlags::PRIVATE)?,
        limit: open(&cgroup.join("memory.max"))?,
        usage: open(&cgroup.join("memory.current"))?,
        adj: open(Path::new("/proc/self/oom_score_adj"))?,
        log: Log::open()?,
    };
    // Reclaim gives work to kernel threads, which shall not come in between.
    come_first(1)?;
    println!("ready");
    while std::io::stdin().read(&mut [0]).context("waiting")? == 1 {
        let Kill {
            victim,
            fault_ns,
            killed_ns,
            reported,
        } = trigger.kill()?;
        println!("{victim} {fault_ns} {killed_ns} {reported}");
    }
    Ok(())
}

/// The task that invokes the OOM killer. Its files stay open: what the kernel keeps of a file's
/// name is memory of the cgroup, too, and would be reclaimed at one kill and not at another.
struct Trigger {
    appetite: Pages,
    limit: File,
    usage: File,
    adj: File,
    log: Log,
}

impl Trigger {
    fn kill(&mut self) -> Result<Kill> {
        let victim = self.start_victim()?;
        self.log.set_clock()?;
        let mut used = [0; 32];
        let length = self.usage.read_at(&mut used, 0)?;
        let used: u64 = str::from_utf8(&used[..length])?.trim().parse()?;
        let limit = used + ROOM_PAGES * page_size() as u64;
        self.limit.write_all_at(limit.to_string().as_bytes(), 0)?;
        for page in 0..VICTIM_PAGES {
            let before_ns = processor_time_ns();
            self.appetite.touch_one(page);
            let fault_ns = processor_time_ns() - before_ns;
            // The victim comes before the trigger on their processor: if the fault had it killed,
            // it is dead now.
            let Some((_, status)) = waitpid(Some(victim), WaitOptions::NOHANG)? else {
                continue;
            };
            ensure!(
                status.terminating_signal() == Some(Signal::KILL.as_raw()),
                "a victim ended otherwise: {status:?}"
            );
            self.appetite.give_back()?;
            self.limit.write_all_at(b"max", 0)?;
            let (killed_ns, reported) = self.log.find(victim)?;
            return Ok(Kill {
                victim: victim.as_raw_nonzero().get().cast_unsigned(),
                fault_ns,
                killed_ns,
                reported,
            });
        }
        bail!("the trigger met no limit")
    }

    /// A process that holds some memory and is chosen before all others.
    fn start_victim(&self) -> Result<Pid> {
        let (mut there, mut tell) = std::io::pipe()?;
        // The child inherits it.
        self.adj.write_all_at(b"1000", 0)?;
        let Some(victim) = fork()? else {
            come_first(2)?;
            Pages::map(VICTIM_PAGES, MapFlags::PRIVATE)?.touch(VICTIM_PAGES);
            wait_forever(&mut tell)
        };
        // With -1000 it would be no candidate.
        self.adj.write_all_at(b"-999", 0)?;
        drop(tell);
        there.read_exact(&mut [0]).context("a victim died early")?;
        Ok(victim)
    }
}

/// Takes real-time priority.
fn come_first(priority: i32) -> Result<()> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the kernel only reads the parameters.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    ensure!(
        done == 0,
        "no real-time priority: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// The child has nothing but to be there.
fn wait_forever(tell: &mut PipeWriter) -> ! {
    let _ = tell.write_all(b".");
    loop {
        pause();
    }
}

/// The child, in the parent.
fn fork() -> Result<Option<Pid>> {
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    ensure!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    Ok(Pid::from_raw(child))
}

fn open(file: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    options
        .open(file)
        .with_context(|| file.display().to_string())
}

fn processor_time_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// A mapping that stays for good.
struct Pages {
    start: *mut u8,
    count: usize,
}

impl Pages {
    fn map(count: usize, sharing: MapFlags) -> Result<Self> {
        let bytes = count * page_size();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, of which nobody else knows.
        let start: *mut u8 =
            unsafe { mmap_anonymous(ptr::null_mut(), bytes, access, sharing) }?.cast();
        // SAFETY: advice on what was just mapped.
        unsafe { madvise(start.cast(), bytes, Advice::LinuxNoHugepage) }?;
        Ok(Self { start, count })
    }

    fn touch_one(&self, page: usize) {
        assert!(page < self.count, "beyond the mapping");
        // SAFETY: within the mapping.
        unsafe { self.start.add(page * page_size()).write_volatile(1) };
    }

    fn touch(&self, pages: usize) {
        (0..pages).for_each(|page| self.touch_one(page));
    }

    fn give_back(&self) -> Result<()> {
        // SAFETY: nothing refers to the memory of the mapping.
        unsafe {
            madvise(
                self.start.cast(),
                self.count * page_size(),
                Advice::LinuxDontNeed,
            )
        }
        .context("giving memory back")
    }
}

/// The kernel log.
struct Log {
    file: File,
    /// What `CLOCK_BOOTTIME` is ahead of the log's clock, in microseconds.
    ahead_us: i64,
}

impl Log {
    fn open() -> Result<Self> {
        let file = open(Path::new("/dev/kmsg"))?;
        Ok(Self { file, ahead_us: 0 })
    }

    /// Skips what the log has so far, and compares its clock with ours by a record of our own.
    fn set_clock(&mut self) -> Result<()> {
        const MARK: &str = "bench: what time is it";
        self.file.seek(SeekFrom::End(0))?;
        let before_ns = boottime_ns();
        self.file.write_all(format!("<7>{MARK}\n").as_bytes())?;
        let now_us = (before_ns + boottime_ns()) / 2 / 1000;
        while let Some((time_us, text)) = self.next()? {
            if text.starts_with(MARK) {
                self.ahead_us = now_us.cast_signed() - time_us;
                return Ok(());
            }
        }
        bail!("the kernel log has no record of ours (kernel.printk_devkmsg)")
    }

    /// When the victim was killed, and whether there is a report.
    fn find(&mut self, victim: Pid) -> Result<(u64, bool)> {
        let line = format!("Killed process {} ", victim.as_raw_nonzero());
        let mut reported = false;
        while let Some((time_us, text)) = self.next()? {
            reported |= text.contains(" invoked oom-killer: ");
            if text.contains(&line) {
                let killed_us = time_us + self.ahead_us;
                return Ok((killed_us.cast_unsigned() * 1000, reported));
            }
        }
        bail!("the kernel log has no line {line:?}")
    }

    /// The next record, if there is one: its time and its text.
    fn next(&mut self) -> Result<Option<(i64, String)>> {
        let mut buffer = [0; 8192];
        let length = match self.file.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).context("reading the kernel log"),
        };
        let record = String::from_utf8_lossy(&buffer[..length]);
        let (prefix, text) = record.split_once(';').context("a record without a text")?;
        let time = prefix
            .split(',')
            .nth(2)
            .context("a record without a time")?;
        Ok(Some((time.parse()?, text.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::Kill;

    /// The stage's line is read as it is written.
    #[test]
    fn line() {
        let kill = Kill {
            victim: 3,
            fault_ns: 1,
            killed_ns: 2,
            reported: true,
        };
        assert_eq!(Kill::parse("3 1 2 true\n"), Some(kill));
        assert_eq!(Kill::parse("3 1 2"), None);
    }
}

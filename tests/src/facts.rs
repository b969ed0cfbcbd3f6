//! What `/proc` says of a process while it still lives.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{cgroup::Cgroup, read};

/// A process before its end.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Process id.
    pub pid: u32,
    /// The thread the kernel will name.
    pub tid: u32,
    /// Process id of its parent.
    pub ppid: u32,
    /// Real user id.
    pub uid: u32,
    /// Name of the thread.
    pub comm: Vec<u8>,
    /// Name of the first thread.
    pub leader_comm: Vec<u8>,
    /// Its executable.
    pub exe: String,
    /// Start of the process in clock ticks since boot, as in `/proc/PID/stat`.
    pub start_ticks: u64,
    /// Its `oom_score_adj`.
    pub oom_score_adj: i64,
    /// `/proc/PID/oom_score`, at the time it was read.
    pub oom_score: i64,
    /// Path of its memory cgroup.
    pub cgroup_path: String,
    /// kernfs id of its memory cgroup.
    pub cgroup_id: u64,
    /// Version of that hierarchy.
    pub cgroup_version: u8,
}

impl Facts {
    /// Looks at a process in a cgroup of ours.
    ///
    /// # Errors
    /// When it is gone, or not in that cgroup.
    pub fn of(pid: u32, cgroup: &Cgroup) -> Result<Self> {
        Self::of_thread(pid, pid, cgroup)
    }

    /// Looks at a process of which the kernel will name one thread.
    ///
    /// # Errors
    /// When it is gone, or not in that cgroup.
    pub fn of_thread(pid: u32, tid: u32, cgroup: &Cgroup) -> Result<Self> {
        anyhow::ensure!(
            cgroup.members()?.contains(&pid),
            "process {pid} is not in {}",
            cgroup.path()
        );
        Self::in_cgroup(pid, tid, cgroup.path(), cgroup.id()?, cgroup.version())
    }

    /// Looks at a process whose memory cgroup is known.
    ///
    /// # Errors
    /// When it is gone.
    pub fn in_cgroup(pid: u32, tid: u32, path: String, id: u64, version: u8) -> Result<Self> {
        let process = format!("/proc/{pid}");
        let process = Path::new(&process);
        let thread = process.join("task").join(tid.to_string());
        // The name may hold anything, but nothing after it holds a parenthesis.
        let stat = fs::read(process.join("stat")).context("reading its stat")?;
        let end = stat
            .iter()
            .rposition(|byte| *byte == b')')
            .context("stat without a name")?;
        let rest = String::from_utf8_lossy(&stat[end + 1..]).into_owned();
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| -> Result<u64> {
            let text = fields.get(number - 3).context("stat is too short")?;
            text.parse()
                .with_context(|| format!("field {number} of stat is {text:?}"))
        };
        let status = fs::read(thread.join("status")).context("reading its status")?;
        let status = String::from_utf8_lossy(&status).into_owned();
        let uid = status
            .lines()
            .find_map(|line| {
                line.strip_prefix("Uid:")?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .context("status without Uid")?;
        let name = |place: &Path| -> Result<Vec<u8>> {
            let mut comm = fs::read(place.join("comm")).context("reading its name")?;
            comm.pop();
            Ok(comm)
        };
        Ok(Self {
            pid,
            tid,
            ppid: field(4)?.try_into()?,
            uid,
            comm: name(&thread)?,
            leader_comm: name(process)?,
            exe: exe(&[thread.join("exe"), process.join("exe")])?,
            start_ticks: field(22)?,
            oom_score_adj: read(process.join("oom_score_adj"))?.parse()?,
            oom_score: read(process.join("oom_score"))?.parse()?,
            cgroup_path: path,
            cgroup_id: id,
            cgroup_version: version,
        })
    }
}

/// The executable; a leader that has exited no longer has one, but its threads do.
fn exe(places: &[std::path::PathBuf]) -> Result<String> {
    let mut last = None;
    for place in places {
        match fs::read_link(place) {
            Ok(path) => return Ok(path.display().to_string()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.context("no place to look")?).context("reading its executable")
}

//! The program, given something to read; and logs and events recorded on real kernels (`cargo xtask
//! vm --record`).
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test uses a part of it"
)]

pub mod place;

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use flate2::read::GzDecoder;
use oomtrace::event::{Event, OomKill};

/// The cell that single events are taken from.
const CELL: &str = "6.12.plain";

/// Runs the program with these arguments and this standard input.
pub fn oomtrace(args: &[&str], input: &[u8]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_oomtrace"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = program.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // It may have ended without reading all.
        let _ = stdin.write_all(&input);
    });
    let output = program.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/recorded")
}

/// The recorded files whose names end so, of all kernels with every hook and the log.
pub fn files(ending: &str) -> Vec<PathBuf> {
    files_of(".plain", ending)
}

/// The recorded files whose names end so, of all cells that end so.
pub fn files_of(cells: &str, ending: &str) -> Vec<PathBuf> {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let mut files: Vec<_> = entries(&root())
        .iter()
        .filter(|cell| cell.to_string_lossy().ends_with(cells))
        .flat_map(|cell| entries(cell))
        .filter(|file| file.to_string_lossy().ends_with(ending))
        .collect();
    files.sort();
    files
}

/// What a file holds.
pub fn unpacked_bytes(file: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    GzDecoder::new(fs::File::open(file).unwrap())
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

/// A file's text.
pub fn unpacked(file: &Path) -> String {
    String::from_utf8(unpacked_bytes(file)).unwrap()
}

/// One recorded file: `CELL/SCENARIO.kmsg.gz` or `.jsonl.gz`.
pub fn recorded_file(name: &str) -> Vec<u8> {
    unpacked_bytes(&root().join(name))
}

/// The lines of a scenario's events, on one kernel.
pub fn lines(scenario: &str) -> String {
    unpacked(&root().join(CELL).join(format!("{scenario}.jsonl.gz")))
}

fn kills(lines: &str) -> impl Iterator<Item = OomKill> {
    lines
        .lines()
        .filter_map(|line| match serde_json::from_str(line).unwrap() {
            Event::OomKill(kill) => Some(*kill),
            _ => None,
        })
}

/// The kills of a scenario, on one kernel.
pub fn recorded(scenario: &str) -> Vec<OomKill> {
    kills(&lines(scenario)).collect()
}

/// The kills of all scenarios and kernels, with the name of their file.
pub fn recorded_kills() -> Vec<(String, OomKill)> {
    files(".jsonl.gz")
        .iter()
        .flat_map(|file| {
            let name = file.display().to_string();
            kills(&unpacked(file))
                .map(|kill| (name.clone(), kill))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// What was recorded of others that kill: two evictions, told by a real API server, and two kills of a
/// cgroup, told on a system bus as systemd-oomd tells them.
pub fn others() -> String {
    unpacked(&root().with_file_name("recorded-others.jsonl.gz"))
}

//! `rank` and `audit` on a prepared node with cgroup v2: the files that a machine with v1 lacks.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

const MIB: u64 = 1 << 20;
const POD: &str = "/kubepods.slice/kubepods-besteffort.slice/\
                   kubepods-besteffort-pod0b1d6c1e_3f52_4a57_9a0c_6f0a1c2b3d4e.slice";
const CONTAINER: &str =
    "cri-containerd-9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08.scope";

fn put(root: &Path, path: &str, text: &str) {
    let file = root.join(&path[1..]);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

/// A process with so many resident pages.
fn process(root: &Path, pid: u32, comm: &str, pages: u64, adj: i32, cgroup: &str) {
    let of = |file: &str| format!("/proc/{pid}/{file}");
    let stat =
        format!("{pid} ({comm}) S 1 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 {pid} 0 {pages} 0\n");
    put(root, &of("stat"), &stat);
    put(root, &of("status"), "VmPTE:\t  64 kB\nVmSwap:\t   0 kB\n");
    put(root, &of("oom_score_adj"), &format!("{adj}\n"));
    put(root, &of("oom_score"), "700\n");
    put(root, &of("cgroup"), &format!("0::{cgroup}\n"));
}

/// 16 GiB with 1 GiB of swap, a pod near its limit, and a service.
fn node() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let meminfo = "MemTotal: 16777216 kB\nMemFree: 8388608 kB\nInactive(file): 1024 kB\n\
                   SwapTotal: 1048576 kB\n";
    put(root, "/proc/meminfo", meminfo);
    put(
        root,
        "/proc/self/mounts",
        "c /sys/fs/cgroup cgroup2 rw 0 0\n",
    );
    put(root, "/proc/sys/vm/swappiness", "60\n");
    put(root, "/sys/fs/cgroup/cgroup.controllers", "cpu memory\n");
    for (path, max, current) in [
        ("/kubepods.slice", "8589934592", 100 * MIB),
        (POD, "max", 100 * MIB),
        (&format!("{POD}/{CONTAINER}"), "104857600", 99 * MIB),
        ("/system.slice/x.service", "max", 10 * MIB),
    ] {
        let of = |file: &str| format!("/sys/fs/cgroup{path}/{file}");
        put(root, &of("memory.max"), &format!("{max}\n"));
        put(root, &of("memory.current"), &format!("{current}\n"));
        put(
            root,
            &of("memory.stat"),
            &format!("anon 1\ninactive_file {}\n", 9 * MIB),
        );
        put(root, &of("memory.swap.max"), "20971520\n");
        put(root, &of("memory.oom.group"), "0\n");
    }
    let inside = format!("{POD}/{CONTAINER}");
    process(root, 10, "app", 1000, 1000, &inside);
    process(root, 11, "helper", 500, 1000, &inside);
    process(root, 12, "x", 9000, 0, "/system.slice/x.service");
    directory
}

fn run(root: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_oomtrace"))
        .args(args)
        .arg("--json")
        .arg("--root")
        .arg(root)
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A limit counts with the swap it may have, and the group is told that dies with the first.
#[test]
fn rank_with_cgroup_v2() {
    let node = node();
    let root = node.path();
    let all = json(&run(root, &["rank"]));
    assert_eq!(all["total_bytes"], 17_u64 << 30);
    let pids = |ranking: &Value| -> Vec<u64> {
        let items = ranking["candidates"]["items"].as_array().unwrap();
        items
            .iter()
            .map(|item| item["pid"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(pids(&all), [10, 11, 12]);
    assert_eq!(all["pods"]["items"][0]["qos_class"], "BestEffort");
    assert_eq!(all["pods"]["items"][0]["processes"], 2);
    assert!(all["candidates"]["items"][0]["dies_with"].is_null());

    let inside = format!("{POD}/{CONTAINER}");
    put(
        root,
        &format!("/sys/fs/cgroup{inside}/memory.oom.group"),
        "1\n",
    );
    let ranking = json(&run(root, &["rank", "--cgroup", &inside]));
    assert_eq!(ranking["total_bytes"], 120 * MIB);
    assert_eq!(pids(&ranking), [10, 11]);
    assert_eq!(ranking["candidates"]["items"][0]["dies_with"], inside);
}

/// The container near its limit and its BestEffort pod are found; put right, nothing is.
#[test]
fn audit_with_cgroup_v2() {
    let node = node();
    let root = node.path();
    let codes = |output: &Output| -> Vec<String> {
        let findings = json(output)["findings"].as_array().unwrap().clone();
        let code = |one: &Value| one["code"].as_str().unwrap().to_owned();
        findings.iter().map(code).collect()
    };
    let output = run(root, &["audit"]);
    assert_eq!(codes(&output), ["near_limit", "best_effort_pod"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)["findings"][0]["numbers"]["percent"], 90);

    let limit = format!("/sys/fs/cgroup{POD}/{CONTAINER}/memory.max");
    put(root, &limit, "209715200\n");
    let output = run(root, &["audit", "--ignore", "best_effort_pod"]);
    assert_eq!(codes(&output), Vec::<String>::new());
    assert_eq!(output.status.code(), Some(0));
}

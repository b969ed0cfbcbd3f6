//! A place of its own for a delivery, and events for it.
use std::{
    collections::HashSet,
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::lines;

/// Nothing takes so long that works.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a condition.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How often the program is killed while it delivers.
pub fn kills() -> usize {
    env::var("OOMTRACE_TEST_KILLS").map_or(20, |kills| kills.parse().unwrap())
}

/// Kills that were recorded, each with an `event_id` of its own: `e-0`, `e-1`, …
pub fn events(count: usize) -> Vec<String> {
    numbered(0..count)
}

pub fn numbered(numbers: std::ops::Range<usize>) -> Vec<String> {
    let kills: Vec<Value> = lines("twenty_die_as_a_group")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["kind"] == "oom_kill")
        .collect();
    numbers
        .map(|number| {
            let mut kill = kills[number % kills.len()].clone();
            kill["event_id"] = format!("e-{number}").into();
            kill.to_string()
        })
        .collect()
}

/// The numbers of the events in JSON lines, and that nothing else is there.
pub fn numbers(text: &str) -> Vec<usize> {
    let number = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("torn: {line}"));
        event["event_id"].as_str().unwrap()[2..].parse().unwrap()
    };
    text.lines().map(number).collect()
}

/// Without what came again.
pub fn first_of_each(numbers: Vec<usize>) -> Vec<usize> {
    let mut seen = HashSet::new();
    numbers.into_iter().filter(|it| seen.insert(*it)).collect()
}

pub struct Place {
    pub folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Writes a configuration with these sinks; `DIR` stands for this place.
    pub fn config(&self, sinks: &str) -> PathBuf {
        let folder = self.folder.path().display().to_string();
        let text = format!("[spool]\ndirectory = \"DIR/spool\"\n{sinks}").replace("DIR", &folder);
        let path = self.path("config.toml");
        fs::write(&path, text).unwrap();
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oomtrace"));
        let config = self.path("config.toml");
        command.args(["deliver", "--config"]).arg(config).args(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub fn deliver(&self, events: &[String], args: &[&str]) -> Output {
        let mut child = self.command(args).spawn().unwrap();
        let writer = feed(&mut child, events.to_vec());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    pub fn delivered(&self, events: &[String]) {
        let output = self.deliver(events, &["--timeout", "120s"]);
        assert!(output.status.success(), "{output:?}");
    }
}

pub fn feed(child: &mut Child, events: Vec<String>) -> JoinHandle<()> {
    let mut stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || {
        for event in events {
            // It may have been killed.
            if stdin.write_all(format!("{event}\n").as_bytes()).is_err() {
                return;
            }
        }
    })
}

pub fn openssl(folder: &Path, line: &str) {
    let made = Command::new("openssl")
        .args(line.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "openssl {line}: {made:?}");
}

/// Certificates signed by `ca`: `good` for localhost, `wrong` for another name, and `old`, which ends in
/// the second it is made in. `other` has signed none.
pub fn certificates(folder: &Path) {
    let new_key = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    for ca in ["ca", "other"] {
        let made = format!("{new_key} -x509 -keyout {ca}.key -out {ca}.pem -subj /CN={ca} -days 2");
        openssl(folder, &made);
    }
    for (name, host, days) in [
        ("good", "localhost", "2"),
        ("wrong", "elsewhere", "2"),
        ("old", "localhost", "0"),
    ] {
        fs::write(folder.join("ext"), format!("subjectAltName=DNS:{host}\n")).unwrap();
        openssl(
            folder,
            &format!("{new_key} -keyout {name}.key -out {name}.csr -subj /CN={host}"),
        );
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile ext \
                 -days {days} -out {name}.pem"
            ),
        );
    }
}

/// Says that a test is skipped; where nothing may be, it fails.
pub fn missing(what: &str) {
    println!("skipped: there is no {what} here (cargo xtask test installs it)");
    assert!(env::var_os("OOMTRACE_NO_SKIP").is_none(), "no {what}");
}

//! `oomtrace report`, through the program, on events recorded on real kernels; and in a browser.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "common/crowd.rs"]
mod crowd;

use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Instant,
};

use common::{files, lines, recorded, recorded_kills, unpacked};
use oomtrace::event::{Event, OomKill};

fn report(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_oomtrace"))
        .arg("report")
        .args(args)
        .output()
        .unwrap()
}

/// A report that nothing is complained about.
fn made(args: &[&str]) -> String {
    let output = report(args);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*said), (Some(0), ""), "{args:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(kill: &OomKill) -> String {
    serde_json::to_string(&Event::OomKill(Box::new(kill.clone()))).unwrap() + "\n"
}

/// Text without tags.
fn text_of(html: &str) -> String {
    let body = html.split_once("<body>").unwrap().1;
    let mut text = String::new();
    let mut inside = false;
    for char in body.chars() {
        match char {
            '<' => inside = true,
            '>' => {
                inside = false;
                text.push(' ');
            }
            other if !inside => text.push(other),
            _ => {}
        }
    }
    text
}

/// All recorded events as one set of files.
fn everything(folder: &Path) -> PathBuf {
    let file = folder.join("all.jsonl");
    let text: String = files(".jsonl.gz")
        .iter()
        .map(|file| unpacked(file))
        .collect();
    fs::write(&file, text).unwrap();
    file
}

/// All that was recorded is counted once, also when it is given twice; every decision is there with
/// its summary.
#[test]
fn everything_that_was_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let file = everything(folder.path());
    let file = file.to_str().unwrap();
    let kills = recorded_kills();
    let mut ids: Vec<_> = kills.iter().map(|(_, kill)| &kill.oom_id).collect();
    ids.sort();
    ids.dedup();
    let sentence = format!(
        "{} processes were killed, in {} decisions of the OOM killer.",
        kills.len(),
        ids.len()
    );
    let html = made(&[file, "--format", "html"]);
    let text = text_of(&html);
    assert!(text.contains(&sentence), "{sentence}\n{text}");
    assert_eq!(
        html.matches("<details class=\"decision\"").count(),
        ids.len()
    );
    // The recordings are of machines that were there one after the other.
    assert!(text.contains(") was not watched "), "{text}");
    let one = files(".jsonl.gz").remove(0);
    let one = text_of(&made(&[one.to_str().unwrap(), "--format", "html"]));
    assert!(one.contains("Nothing is known to be"), "{one}");
    for (name, kill) in &kills {
        let summary = kill.verdict.as_ref().unwrap().summary.clone().unwrap();
        if kill.victim.role == Some(oomtrace::event::Role::Chosen) {
            assert!(text.contains(&summary), "{name}: {summary}");
        }
    }
    let twice = text_of(&made(&[file, file, "--format", "html", "-o", "-"]));
    assert!(twice.contains(&sentence));
    for format in ["md", "text"] {
        let text = made(&[file, "--format", format]);
        assert!(text.contains(&sentence.replace('_', "\\_")), "{text}");
        assert!(text.contains("Who, and what to change"));
    }
}

/// What was lost, what is missing and when nobody watched is said first.
#[test]
fn what_is_missing_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    let all = lines("twenty_die_as_a_group");
    // Without the third record; and two runs of one tracer, with an hour in between.
    let kept: String = all
        .lines()
        .enumerate()
        .filter(|(at, _)| *at != 2)
        .map(|(_, line)| format!("{line}\n"))
        .collect();
    let loss = serde_json::json!({"kind": "loss", "place": "ring_buffer", "lost": 7, "lost_kills": 3, "lost_total": 7});
    let mut head: serde_json::Value = serde_json::from_str(all.lines().next().unwrap()).unwrap();
    let head = head.as_object_mut().unwrap();
    head.extend(loss.as_object().unwrap().clone());
    head["event_id"] = "later".into();
    head["run_id"] = "another".into();
    let time: u64 = head["time_unix_ns"].as_str().unwrap().parse().unwrap();
    head["time_unix_ns"] = (time + 7_200_000_000_000).to_string().into();
    head["reconciliation"] = serde_json::Value::Null;
    fs::write(
        &file,
        format!("{kept}{}\n", serde_json::to_string(head).unwrap()),
    )
    .unwrap();
    for format in ["html", "md", "text"] {
        let text = made(&[file.to_str().unwrap(), "--format", format]);
        for sentence in [
            "Something is missing",
            "The tracer lost 7 records, 3 of them kills.",
            "1 record of 1 run that were written are not in the input",
            "was not watched for 1 h 59 min",
            "the ring buffer was full",
        ] {
            assert!(text.contains(sentence), "{sentence}\n{text}");
        }
    }
}

/// Advice has its reason: the next limit to try, and none where the limit is not the matter.
#[test]
fn advice() {
    let folder = tempfile::tempdir().unwrap();
    let advice_of = |kills: &[OomKill]| {
        let file = folder.path().join("events.jsonl");
        fs::write(&file, kills.iter().map(json).collect::<String>()).unwrap();
        text_of(&made(&[file.to_str().unwrap(), "--format", "html"]))
    };
    let kill = recorded("victim_is_not_the_trigger").remove(0);
    let least = kill.verdict.as_ref().unwrap().survival.as_ref().unwrap();
    let least = least.limit_at_least_bytes.unwrap();
    let text = advice_of(std::slice::from_ref(&kill));
    let next = least.div_ceil(1 << 20) + 100;
    assert!(
        text.contains(&format!("limit {next} MiB")),
        "{next}\n{text}"
    );

    // The same workload at two limits: raising it once more is no advice.
    let mut other = kill.clone();
    other.head.event_id += "-2";
    other.oom_id += "-2";
    let memcg = other.oom.memcg.as_mut().unwrap();
    memcg.limit_bytes = memcg.limit_bytes.map(|limit| limit * 2);
    let text = advice_of(&[kill.clone(), other]);
    assert!(
        text.contains("it reached every limit that it had"),
        "{text}"
    );
    assert!(text.contains("repeat"), "{text}");

    // A full node: the limit has no part in it.
    let text = advice_of(&recorded("machine_with_swap"));
    assert!(
        text.contains("no request of its own is known to help"),
        "{text}"
    );
    assert!(!text.contains("limit 1"), "{text}");
}

/// What becomes known of a kill later is told of it, and does not count as another.
#[test]
fn late_facts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    let mut kill = recorded("victim_is_not_the_trigger").remove(0);
    let none = oomtrace::event::Enrichment {
        complete: false,
        sources: Vec::new(),
        age_ms: None,
        errors: Vec::new(),
    };
    kill.enrichment = Some(none.clone());
    let late = Event::Enrichment(Box::new(oomtrace::event::LateEnrichment {
        head: kill.head.clone(),
        oom_id: kill.oom_id.clone(),
        victim: oomtrace::event::Whose {
            pod: Some(oomtrace::event::Pod {
                name: Some("payments-api-5d4f".to_owned()),
                namespace: Some("prod".to_owned()),
                ..Default::default()
            }),
            container: None,
        },
        trigger: oomtrace::event::Whose::default(),
        enrichment: none,
    }));
    let late = serde_json::to_string(&late).unwrap();
    for (lines, place) in [
        (json(&kill), "/oomtrace-test"),
        (json(&kill) + &late, "prod/payments-api-5d4f"),
    ] {
        fs::write(&file, lines).unwrap();
        let text = made(&[file.to_str().unwrap()]);
        assert!(
            text.contains("1 process was killed, in one decision"),
            "{text}"
        );
        let table = text.split_once("Who, and what to change").unwrap().1;
        let row = table.lines().nth(4).unwrap().trim();
        assert!(row.starts_with(place), "{row}");
        assert!(!text.contains("twice"), "{text}");
    }
}

/// Names are text, in every format.
#[test]
fn names_are_harmless() {
    let bad = "</title></svg><script>alert(1)</script>\u{202e}`|\u{1b}[2J![x](http://x)";
    let mut kill = recorded("victim_is_not_the_trigger").remove(0);
    kill.victim.comm = Some(bad.to_owned());
    kill.trigger.comm = Some(bad.to_owned());
    let candidates = kill.candidates.as_mut().unwrap();
    candidates
        .items
        .iter_mut()
        .for_each(|item| item.comm = bad.to_owned());
    kill.verdict.as_mut().unwrap().summary = Some(bad.to_owned());
    kill.victim.cgroup.as_mut().unwrap().path = Some(format!("/{bad}"));
    kill.oom.memcg.as_mut().unwrap().path = Some(format!("/{bad}"));
    kill.head.node = std::sync::Arc::new(oomtrace::event::Node {
        hostname: Some(bad.to_owned()),
        ..Default::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    fs::write(&file, json(&kill)).unwrap();
    let file = file.to_str().unwrap();
    let html = made(&[file, "--format", "html"]);
    assert!(!html.contains("<script") && html.matches("</title></svg>").count() == 0);
    for format in ["html", "md", "text"] {
        let text = made(&[file, "--format", format]);
        assert!(!text.contains(['\u{202e}', '\u{1b}']), "{format}");
    }
    let md = made(&[file, "--format", "md"]);
    for line in md.lines().filter(|line| line.contains("![x]")) {
        assert!(line.contains('`') || line.starts_with(' '), "{line}");
    }
}

/// The file is there whole, or not at all.
#[test]
fn the_output() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("report.html");
    let out_name = out.to_str().unwrap();
    let output = report(&["/does/not/exist", "-o", out_name]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let input = files(".jsonl.gz").remove(0);
    made(&[input.to_str().unwrap(), "-o", out_name]);
    assert!(fs::read_to_string(&out).unwrap().ends_with("</html>\n"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Interrupted at any moment, it leaves a whole page or none.
#[test]
fn interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("crowd.jsonl");
    let mut file = BufWriter::new(File::create(&input).unwrap());
    crowd::write(1_000, &mut file);
    drop(file);
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let page = out.join("report.html");
    // Whoever runs this may ignore the signal, which is inherited.
    let start = || {
        Command::new("env")
            .args([
                "--default-signal=INT",
                env!("CARGO_BIN_EXE_oomtrace"),
                "report",
            ])
            .args([input.as_path(), Path::new("-o"), &page])
            .spawn()
            .unwrap()
    };
    let began = Instant::now();
    assert!(start().wait().unwrap().success());
    let took = began.elapsed();
    let mut interrupted = 0;
    for at in 0..16 {
        let _ = fs::remove_file(&page);
        let mut child = start();
        std::thread::sleep(took * at / 16);
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        interrupted += u32::from(!child.wait().unwrap().success());
        let left: Vec<_> = fs::read_dir(&out).unwrap().collect();
        assert!(left.len() <= 1, "{left:?}");
        if let Some(left) = left.first() {
            assert_eq!(left.as_ref().unwrap().path(), page);
            assert!(fs::read_to_string(&page).unwrap().ends_with("</html>\n"));
        }
    }
    assert!(interrupted > 0, "it was never interrupted");
}

/// A hundred thousand events: a page of bounded size. How long it takes is printed.
#[test]
fn a_crowd() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("crowd.jsonl");
    let mut file = BufWriter::new(File::create(&input).unwrap());
    crowd::write(100_000, &mut file);
    drop(file);
    let out = folder.path().join("report.html");
    let began = Instant::now();
    made(&[input.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    let took = began.elapsed();
    let (read, written) = [&input, &out]
        .map(|file| fs::metadata(file).unwrap().len())
        .into();
    println!(
        "100,000 events, {} MB: {} KB of HTML in {} ms",
        read / 1_000_000,
        written / 1_000,
        took.as_millis()
    );
    assert!(written < 10_000_000, "{written} bytes");
    let text = text_of(&fs::read_to_string(&out).unwrap());
    assert!(
        text.contains("50,000 processes were killed, in 50,000 decisions"),
        "{text}"
    );
    assert!(text.contains("The newest 100 of 50,000"));
}

/// What a browser makes of a page: the document, and what it wrote to its console. `None` where
/// there is no browser.
fn browse(page: &Path, options: &[&str]) -> Option<(String, String)> {
    let names = [
        "chromium-headless-shell",
        "chromium",
        "chrome",
        "google-chrome",
    ];
    let folders = std::env::var_os("PATH")?;
    let browser = names.iter().find_map(|name| {
        std::env::split_paths(&folders)
            .map(|folder| folder.join(name))
            .find(|file| file.is_file())
    });
    let Some(browser) = browser else {
        println!("skipped: there is no chromium here (cargo xtask test installs it)");
        return None;
    };
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--log-level=0",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(options)
        .arg("--dump-dom")
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    Some((String::from_utf8(output.stdout).unwrap(), log))
}

/// A browser shows bars, tables and decisions, has nothing to complain about, and follows the
/// system into the dark.
#[test]
fn in_a_browser() {
    let folder = tempfile::tempdir().unwrap();
    let input = everything(folder.path());
    let page = folder.path().join("report.html");
    made(&[input.to_str().unwrap(), "-o", page.to_str().unwrap()]);
    let source = fs::read_to_string(&page).unwrap();
    let Some((document, log)) = browse(&page, &[]) else {
        return;
    };
    assert!(!log.contains("CONSOLE"), "{log}");
    for part in [
        "<rect",
        "<svg class=\"bar\"",
        "<table class=\"ranking\"",
        "<svg class=\"timeline\"",
        "<details",
    ] {
        let (written, shown) = (source.matches(part).count(), document.matches(part).count());
        assert!(
            written > 0 && shown == written,
            "{part}: {shown} of {written}"
        );
    }
    // The page is asked what it looks like, by a probe that the page itself does not have.
    let probe = source.replace(
        "default-src 'none'; style-src",
        "default-src 'none'; script-src 'unsafe-inline'; style-src",
    );
    let probe = probe.replace(
        "</body>",
        "<script>const at=(e)=>document.querySelector(e);\
         document.title=[getComputedStyle(document.body).backgroundColor,\
         at('.ranking rect').getBoundingClientRect().width>20,\
         at('.timeline rect').getBoundingClientRect().height>5,\
         document.documentElement.scrollWidth<=innerWidth].join('|')</script></body>",
    );
    let probe_page = folder.path().join("probe.html");
    fs::write(&probe_page, probe).unwrap();
    let title = |options: &[&str]| {
        let (document, _) = browse(&probe_page, options).unwrap();
        let rest = document.split_once("<title>").unwrap().1;
        rest.split_once("</title>").unwrap().0.to_owned()
    };
    let light = title(&[
        "--window-size=1200,900",
        "--blink-settings=preferredColorScheme=1",
    ]);
    let dark = title(&[
        "--window-size=1200,900",
        "--blink-settings=preferredColorScheme=0",
    ]);
    let phone = title(&[
        "--window-size=500,900",
        "--blink-settings=preferredColorScheme=1",
    ]);
    assert_eq!(light, "rgb(246, 247, 249)|true|true|true");
    assert_eq!(dark, "rgb(16, 20, 24)|true|true|true");
    let tablet = title(&[
        "--window-size=720,900",
        "--blink-settings=preferredColorScheme=1",
    ]);
    assert_eq!(tablet, light, "nor than half a screen");
    assert_eq!(phone, light, "nothing is wider than a phone");
}

/// A page with nothing in it but a start is a page, too.
#[test]
fn no_kill() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    let first = lines("single_process").lines().next().unwrap().to_owned();
    fs::write(&file, first).unwrap();
    for format in ["html", "md", "text"] {
        let text = made(&[file.to_str().unwrap(), "--format", format]);
        assert!(text.contains("The OOM killer killed nothing."), "{text}");
    }
}

//! `oomtrace explain`, through the program, on events recorded on real kernels.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod common;

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use common::{files, lines, oomtrace, recorded, unpacked};
use oomtrace::event::{Event, OomKill};

fn explain(args: &[&str], input: &[u8]) -> Output {
    oomtrace(&[&["explain"], args].concat(), input)
}

/// The pages of what can be read; nothing is to be said on standard error.
fn pages(input: &str) -> String {
    let output = explain(&[], input.as_bytes());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*said), (Some(0), ""));
    String::from_utf8(output.stdout).unwrap()
}

fn json(event: &OomKill) -> String {
    serde_json::to_string(&Event::OomKill(Box::new(event.clone()))).unwrap() + "\n"
}

/// The line of the ranking about a process.
fn row(page: &str, pid: u32) -> &str {
    let pid = format!(" {pid} ");
    let table = page.split_once("Ranking").unwrap().1;
    table.lines().find(|line| line.contains(&pid)).unwrap()
}

fn has(page: &str, words: &[&str]) {
    for word in words {
        assert!(page.contains(word), "{word:?} is not in\n{page}");
    }
}

/// One page a decision, with every section, no line too long but what cannot be broken, and nothing
/// but text.
#[test]
fn a_page_of_every_recorded_kill() {
    let mut count = 0;
    for file in files(".jsonl.gz") {
        let lines = unpacked(&file);
        let text = pages(&lines);
        let name = file.display();
        assert_eq!(text.matches("── OOM kill").count(), 1, "{name}:\n{text}");
        has(
            &text,
            &[
                "  victim ",
                "  limit hit ",
                "  outcome ",
                "\nRanking: ",
                "\nWhy this one\n",
                "\nWhat would have spared it\n",
            ],
        );
        assert!(
            !text.chars().any(|char| char.is_control() && char != '\n'),
            "{name}:\n{text}"
        );
        // Facts and commands keep their line; prose and the ranking do not go beyond the page.
        for line in text
            .lines()
            .filter(|line| !line.starts_with("  ") || line.starts_with("  - "))
        {
            assert!(line.chars().count() <= 100, "{name}: {line}");
        }
        count += 1;
    }
    assert!(count >= 18, "{count} files");
}

/// Two processes in a cgroup: the bigger one dies, and only for what it held.
#[test]
fn limit_of_a_cgroup() {
    let event = recorded("victim_is_not_the_trigger").remove(0);
    let text = pages(&lines("victim_is_not_the_trigger"));
    let path = event.oom.memcg.as_ref().unwrap().path.clone().unwrap();
    let candidates = event.candidates.as_ref().unwrap();
    let [victim, next] = &candidates.items[..] else {
        panic!("{candidates:?}")
    };
    assert!(
        text.contains(&format!("victim     oomtrace-victim (pid {})", victim.pid)),
        "{text}"
    );
    has(
        &text,
        &[
            &format!("limit hit  24.0 MiB of 24.0 MiB (100 %)  {path}"),
            &format!("small one (pid {})", next.pid),
            "Ranking: 2 candidates, the one with the most points dies",
            "Only processes in the cgroup whose limit was hit could be chosen",
            "A higher limit. 4.0 KiB more would have done for this one allocation",
            &format!("cat /sys/fs/cgroup{path}/memory.events"),
        ],
    );
    let verdict = event.verdict.as_ref().unwrap();
    let adj = verdict.survival.as_ref().unwrap().oom_score_adj.unwrap();
    has(
        &text.replace("\n    ", " "),
        &[
            &format!(
                "An oom_score_adj of {adj} or lower (it had 0): then small one (pid {}) would have died.",
                next.pid
            ),
            &format!(
                "{} more than small one (pid {}).",
                verdict.margin_pages.unwrap(),
                next.pid
            ),
        ],
    );
    has(
        &text.replace('\n', " "),
        &[verdict.summary.as_deref().unwrap()],
    );
    // The bars are as long as the points.
    let cells = |pid| row(&text, pid).matches(['█', '▒']).count();
    let (longer, shorter) = (cells(victim.pid), cells(next.pid));
    assert!(longer > 20, "{text}");
    let expected =
        longer * next.badness_pages.unwrap() as usize / victim.badness_pages.unwrap() as usize;
    assert!(
        shorter.abs_diff(expected) <= 1,
        "{shorter} of {longer} cells, not {expected}:\n{text}"
    );
    assert!(row(&text, victim.pid).starts_with('>') && row(&text, next.pid).starts_with(' '));
    assert!(
        !text.contains("swap     "),
        "nobody had swap, and there is a column of it:\n{text}"
    );
}

/// A full machine: swap and `oom_score_adj` have a share in the points, above zero and below.
#[test]
fn full_machine() {
    let event = recorded("machine_with_swap").remove(0);
    let text = pages(&lines("machine_with_swap"));
    let items = &event.candidates.as_ref().unwrap().items;
    assert!(row(&text, items[0].pid).contains('▓'), "{text}");
    assert!(row(&text, items[1].pid).contains('░'), "{text}");
    let protected = row(&text, items[2].pid);
    assert!(
        protected.contains("-500") && protected.contains('·') && !protected.contains('█'),
        "{text}"
    );
    has(
        &text,
        &[
            "adj share",
            "free -m",
            "ps -eo pid,rss,comm --sort=-rss",
            "was killed because the node ran out",
        ],
    );
    assert!(!text.contains("Only processes in the cgroup"), "{text}");
}

/// All victims of a group are on one page.
#[test]
fn a_group_is_one_page() {
    let text = pages(&lines("twenty_die_as_a_group"));
    has(
        &text,
        &[
            "── OOM kill of 20 processes ──",
            "Ranking: 20 candidates",
            "died too",
            "and 4 more",
            "… and 10 more",
        ],
    );
    let flat = text.replace("\n    ", " ");
    has(
        &flat,
        &["No oom_score_adj of its own: all of its group died, whichever of it was chosen."],
    );
    assert!(!text.contains("An oom_score_adj of"), "{text}");
}

/// With the names of pod and container, the commands are about these; with the uid alone they find
/// the name.
#[test]
fn commands_for_this_pod() {
    let mut event = recorded("victim_is_not_the_trigger").remove(0);
    let uid = "8dbc5577-d0e2-4706-8787-57d52c03ddf2";
    let id = "14011c7d92a9e513dfd69211da0413dbf319a5e45a02b354ba6e98e10272542d";
    let path = format!("/kubepods/burstable/pod{uid}");
    let memcg = event.oom.memcg.as_mut().unwrap();
    memcg.path = Some(path.clone());
    event.victim.pod = Some(oomtrace::event::Pod {
        uid: uid.to_owned(),
        ..Default::default()
    });
    event.victim.container = Some(oomtrace::event::Container {
        id: id.to_owned(),
        ..Default::default()
    });
    let text = pages(&json(&event));
    has(
        &text,
        &[
            &format!("| grep {uid}"),
            "crictl inspect 14011c7d92a9",
            &format!("cat /sys/fs/cgroup{path}/memory.events"),
        ],
    );

    let pod = event.victim.pod.as_mut().unwrap();
    (pod.namespace, pod.name) = (
        Some("prod".to_owned()),
        Some("payments-api-5d4f".to_owned()),
    );
    event.victim.container.as_mut().unwrap().name = Some("app".to_owned());
    let text = pages(&json(&event));
    has(
        &text,
        &[
            "kubectl -n prod describe pod payments-api-5d4f\n",
            "kubectl -n prod top pod payments-api-5d4f --containers\n",
            "kubectl -n prod logs payments-api-5d4f -c app --previous --tail=50\n",
            "pod        prod/payments-api-5d4f  container app\n",
        ],
    );
    assert!(
        !text.contains("crictl") && !text.contains("systemctl"),
        "{text}"
    );

    event.victim.pod = None;
    event.victim.container = None;
    event.oom.memcg.as_mut().unwrap().path = Some("/system.slice/dev-x\\x2dy.service".to_owned());
    let text = pages(&json(&event));
    has(
        &text,
        &[
            "systemctl status 'dev-x\\x2dy.service'\n",
            "journalctl -u 'dev-x\\x2dy.service' -n 50\n",
            "cat '/sys/fs/cgroup/system.slice/dev-x\\x2dy.service/memory.events'\n",
        ],
    );
    assert!(!text.contains("kubectl"), "{text}");
}

/// Names can neither drive the terminal nor the shell that a command is pasted into.
#[test]
fn names_are_harmless() {
    let mut event = recorded("victim_is_not_the_trigger").remove(0);
    let bad = "\u{1b}[2J\u{202e}x\n- spared";
    event.victim.comm = Some(bad.to_owned());
    event.candidates.as_mut().unwrap().items[0].comm = bad.to_owned();
    event.candidates.as_mut().unwrap().items[1].comm = bad.to_owned();
    event.trigger.comm = Some(bad.to_owned());
    event.verdict.as_mut().unwrap().summary = Some(bad.to_owned());
    event.head.node = std::sync::Arc::new(oomtrace::event::Node {
        hostname: Some(bad.to_owned()),
        ..Default::default()
    });
    event.oom.memcg.as_mut().unwrap().path = Some("/$(reboot)/`id`;'.service".to_owned());
    for color in ["never", "always"] {
        let output = explain(&["--color", color], json(&event).as_bytes());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            !text.contains("\u{1b}[2J") && !text.contains('\u{202e}'),
            "{text:?}"
        );
        assert!(!text.contains("\n- spared"), "{text}");
        has(
            &text,
            &["cat '/sys/fs/cgroup/$(reboot)/`id`;'\\''.service/memory.events'\n"],
        );
        assert_eq!(text.contains('\u{1b}'), color == "always");
    }
    event.oom.memcg.as_mut().unwrap().path = Some("/a\u{1b}b.service".to_owned());
    let text = pages(&json(&event));
    assert!(
        !text.contains("cat ") && !text.contains("systemctl"),
        "{text}"
    );
}

/// A kernel log gives the page that its import gives, however it is kept; and it is known for a log
/// by what is in it.
#[test]
fn kernel_logs() {
    let logs = files(".kmsg.gz");
    assert!(logs.len() > 20, "{} logs", logs.len());
    for log in logs {
        let name = log.display();
        let imported = oomtrace(&["import", "--quiet", log.to_str().unwrap()], b"");
        let expected = pages(&String::from_utf8(imported.stdout).unwrap());
        assert!(expected.contains("\nRanking: "), "{name}:\n{expected}");
        let output = explain(&[log.to_str().unwrap()], b"");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*said), (Some(0), ""), "{name}");
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            expected,
            "{name}"
        );
    }
    let text = "Out of memory: Killed process 7 (x) total-vm:8kB, anon-rss:4kB, file-rss:0kB";
    let syslog = format!("Nov 21 16:20:10 host app: {{\nNov 21 16:20:11 host kernel: {text}\n");
    let json = format!("{{\"_TRANSPORT\":\"kernel\",\"MESSAGE\":\"{text}\"}}\n");
    let docker = format!("{{\"log\":\"[    1.000000] {text}\\n\",\"stream\":\"stdout\"}}\n");
    let export = format!("__CURSOR=x\n_TRANSPORT=kernel\nMESSAGE={text}\n\n");
    let long = format!("{}[    1.0] {text}\n", "[    0.5] hello\n".repeat(10_000));
    for log in [text, &syslog, &json, &docker, &export, &long] {
        let output = explain(&[], log.as_bytes());
        let page = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{log:.200}");
        has(&page, &["── OOM kill", "victim     x (pid 7)"]);
    }
    // What is cut off is told.
    let header = "[    1.0] x invoked oom-killer: gfp_mask=0x0(), order=0, oom_score_adj=0\n";
    let output = explain(&[], header.as_bytes());
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        "oomtrace: -:1: a report that ends before it names a victim\noomtrace: no event was read\n"
    );
}

/// What is no event is named by its line, and the rest is read; where nothing can be read it fails.
#[test]
fn bad_lines() {
    let good = lines("single_process");
    let first = good.lines().next().unwrap();
    let cut = &first[..first.len() / 2];
    let input = format!(
        "<6>Killed process\n{cut}\n{good}\n{{\"kind\":\"oom_kill\"}}\n{{\"kind\":\"new\"}}\n{cut}"
    );
    let output = explain(&["-"], input.as_bytes());
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, pages(&good));
    let said = String::from_utf8(output.stderr).unwrap();
    let complaints: Vec<_> = said.lines().collect();
    let last = good.lines().count() + 3;
    for (complaint, start) in complaints.iter().zip([
        "oomtrace: -:1: not a JSON object".to_owned(),
        "oomtrace: -:2: ".to_owned(),
        format!("oomtrace: -:{}: missing field", last + 1),
        format!("oomtrace: -:{}: it ends within", last + 3),
    ]) {
        assert!(
            complaint.starts_with(&start),
            "{complaint:?} is not {start:?}"
        );
    }
    assert_eq!(complaints.len(), 4, "{said}");

    for nothing in [
        "",
        "\n\n",
        "Out of memory: Killed process 1\n",
        "[]\n",
        "{}\n",
    ] {
        let output = explain(&[], nothing.as_bytes());
        assert_eq!(output.status.code(), Some(1), "{nothing:?}");
        assert!(output.stdout.is_empty());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.ends_with("no event was read\n"), "{said}");
    }
    let output = explain(&["/does/not/exist"], b"");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("/does/not/exist"), "{said}");
    // Records, and no kill among them.
    let output = explain(&[], first.as_bytes());
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no OOM kill in 1 record"), "{said}");
}

/// An event may be printed over several lines, and its file named.
#[test]
fn an_event_over_several_lines() {
    let all = lines("single_process");
    let mut spread = String::new();
    for line in all.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        spread += &serde_json::to_string_pretty(&value).unwrap();
        spread.push('\n');
    }
    assert!(spread.lines().count() > 100);
    assert_eq!(pages(&spread), pages(&all));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(spread.as_bytes()).unwrap();
    let output = explain(&[file.path().to_str().unwrap()], b"");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), pages(&all));
}

/// In a live stream a page does not wait for the end: it comes as soon as its decision is complete.
#[test]
fn a_page_comes_at_once() {
    use std::io::Read;
    let all = lines("single_process");
    let expected = pages(&all);
    let mut child = Command::new(env!("CARGO_BIN_EXE_oomtrace"))
        .arg("explain")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(all.as_bytes()).unwrap();
    let mut text = vec![0; expected.len()];
    // Standard input stays open: a program that waits for its end never answers.
    let mut stdout = child.stdout.take().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(stdout.read_exact(&mut text).map(|()| text)));
    let answer = receiver.recv_timeout(std::time::Duration::from_secs(60));
    if answer.is_err() {
        child.kill().unwrap();
    }
    let text = answer.expect("no page").unwrap();
    assert_eq!(String::from_utf8(text).unwrap(), expected);
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

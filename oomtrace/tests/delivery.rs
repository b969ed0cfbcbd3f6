//! Delivery through the program: events recorded on real kernels, into files and a real rsyslog,
//! with receivers that fail and processes that are killed.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    collections::HashSet,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::place::{
    PATIENCE, Place, certificates, events, feed, first_of_each, kills, missing, numbered, numbers,
    wait_for,
};
use serde_json::Value;

/// Numbers that nobody foresees, the same ones in each run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

/// All sinks get all events, in order; a filter lets through what it names.
#[test]
fn every_sink_gets_everything() {
    let place = Place::new();
    place.config(
        "[sinks.all]\ntype = \"file\"\npath = \"DIR/all.jsonl\"\n\
         [sinks.none]\ntype = \"file\"\npath = \"DIR/none.jsonl\"\nfilter = { comm = [\"nobody\"] }\n\
         [sinks.out]\ntype = \"stdout\"\n",
    );
    let events = events(300);
    let output = place.deliver(&events, &[]);
    assert!(output.status.success(), "{output:?}");
    let all: Vec<_> = (0..300).collect();
    assert_eq!(numbers(&place.read("all.jsonl")), all);
    assert_eq!(numbers(&String::from_utf8(output.stdout).unwrap()), all);
    assert_eq!(place.read("none.jsonl"), "");
    // What is written is what was read.
    let first: Value =
        serde_json::from_str(place.read("all.jsonl").lines().next().unwrap()).unwrap();
    let given: Value = serde_json::from_str(&events[0]).unwrap();
    assert_eq!(first["victim"]["memory"], given["victim"]["memory"]);
}

/// Killed at any moment, again and again: what the program has let out on standard output is in
/// every spool, so in the end it is in every file and at every receiver, whole, once or more, and in
/// order.
#[test]
fn survives_sigkill() {
    let rounds = kills();
    let place = Place::new();
    let receiver = Receiver::start(|_| Answer::Ok);
    place.config(&format!(
        "[sinks.file]\ntype = \"file\"\npath = \"DIR/file.jsonl\"\nrotate_size = \"2MiB\"\nkeep = 1000\n\
         [sinks.http]\ntype = \"http\"\nurl = \"http://{}/\"\n\
         [sinks.out]\ntype = \"stdout\"\n",
        receiver.address
    ));
    let mut chance = Chance(7);
    let mut next = 0;
    let mut seen = HashSet::new();
    let mut killed = 0;
    for _ in 0..rounds {
        // More than it gets done.
        let given = numbered(next..next + 400);
        let mut child = place.command(&[]).spawn().unwrap();
        let writer = feed(&mut child, given);
        let out = child.stdout.take().unwrap();
        let lines = Arc::new(AtomicU64::new(0));
        let theirs = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            let mut out = BufReader::new(out);
            while out.read_until(b'\n', &mut text).is_ok_and(|read| read > 0) {
                theirs.fetch_add(1, SeqCst);
            }
            String::from_utf8(text).unwrap()
        });
        // Some before anything is out.
        let enough = chance.below(100).saturating_sub(20);
        wait_for("events", || {
            let there = lines.load(SeqCst) >= enough;
            (there || child.try_wait().unwrap().is_some()).then_some(())
        });
        std::thread::sleep(Duration::from_micros(chance.below(20_000)));
        killed += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        writer.join().unwrap();
        let text = reader.join().unwrap();
        // The last line may be cut off: by the kill.
        let whole = text.rfind('\n').map_or("", |at| &text[..=at]);
        let numbers = numbers(whole);
        next = numbers.last().map_or(next, |last| last + 1).max(next);
        seen.extend(numbers);
    }
    assert!(
        killed > rounds / 2,
        "only {killed} of {rounds} were running when killed"
    );
    assert!(
        seen.len() > rounds,
        "only {} events were let out",
        seen.len()
    );
    place.delivered(&[]);

    let mut files: Vec<_> = fs::read_dir(place.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("file.jsonl"))
        .collect();
    let age = |path: &PathBuf| {
        let number = path.extension().unwrap().to_str().unwrap().parse::<i32>();
        std::cmp::Reverse(number.unwrap_or(0))
    };
    files.sort_by_key(age);
    let text: String = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    for (what, numbers) in [
        ("file", numbers(&text)),
        ("http", numbers(&receiver.text())),
    ] {
        let got: HashSet<_> = numbers.iter().copied().collect();
        let missing: Vec<_> = seen.difference(&got).collect();
        assert!(missing.is_empty(), "{what}: {missing:?}");
        let order = first_of_each(numbers);
        assert!(order.is_sorted(), "{what}: not in order: {order:?}");
    }
    println!(
        "{killed} of {rounds} runs killed, {} events let out, none missing",
        seen.len()
    );
}

/// What a receiver answers.
enum Answer {
    Ok,
    Status(u16, &'static str),
    /// Takes the request and says nothing.
    Never,
    /// No HTTP.
    Garbage,
    /// Closes without reading all.
    Close,
}

/// A server that takes batches, as strict as a receiver: one request with its length, the type of its
/// body, and a body of whole lines. It stands in for those that cannot be installed.
struct Receiver {
    address: String,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    fn start(answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::listen(listener, answer)
    }

    fn listen(
        listener: TcpListener,
        answer: impl Fn(usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap().to_string();
        let bodies = Arc::<Mutex<Vec<String>>>::default();
        let theirs = Arc::clone(&bodies);
        let count = Arc::new(AtomicUsize::new(0));
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (theirs, count, answer) = (theirs.clone(), count.clone(), answer.clone());
                std::thread::spawn(move || {
                    let stream = stream.unwrap();
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    while let Some((head, body)) = request(&mut reader) {
                        assert!(head.starts_with("POST "), "{head}");
                        let number = count.fetch_add(1, SeqCst);
                        if !reply(&stream, &answer(number), &body, &theirs) {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, bodies }
    }

    fn text(&self) -> String {
        self.bodies.lock().unwrap().concat()
    }
}

fn reply(mut stream: &TcpStream, answer: &Answer, body: &str, bodies: &Mutex<Vec<String>>) -> bool {
    let status = match answer {
        Answer::Ok => {
            bodies.lock().unwrap().push(body.to_owned());
            "200 OK\r\n"
        }
        Answer::Status(code, more) => &format!("{code} No\r\n{more}"),
        Answer::Never => {
            std::thread::sleep(PATIENCE);
            return false;
        }
        Answer::Garbage => {
            let _ = stream.write_all(b"\x00\x01 what?\r\n\r\n");
            return false;
        }
        Answer::Close => return false,
    };
    let whole = format!("HTTP/1.1 {status}content-length: 2\r\n\r\n{{}}");
    stream.write_all(whole.as_bytes()).is_ok()
}

/// The head and the body of a request; `None` when the connection ends.
fn request(reader: &mut impl BufRead) -> Option<(String, String)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map(|length| length.parse().unwrap())
        .unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).unwrap()))
}

/// Receivers that fail in every way get everything in the end, in order.
#[test]
fn failing_receivers() {
    type Failing = (&'static str, fn() -> Answer);
    let failures: [Failing; 5] = [
        ("429", || Answer::Status(429, "retry-after: 0\r\n")),
        ("500", || Answer::Status(500, "")),
        ("garbage", || Answer::Garbage),
        ("closes", || Answer::Close),
        ("silent", || Answer::Never),
    ];
    for (what, failure) in failures {
        let place = Place::new();
        let receiver = Receiver::start(move |number| match number {
            0 | 2 => failure(),
            _ => Answer::Ok,
        });
        place.config(&format!(
            "[sinks.http]\ntype = \"http\"\nurl = \"http://{}/\"\ntimeout = \"1s\"\n\
             [sinks.file]\ntype = \"file\"\npath = \"DIR/file.jsonl\"\n",
            receiver.address
        ));
        place.delivered(&events(1200));
        let all: Vec<_> = (0..1200).collect();
        // On a slow machine an answer may be too late, and then they come again.
        assert_eq!(first_of_each(numbers(&receiver.text())), all, "{what}");
        assert_eq!(numbers(&place.read("file.jsonl")), all, "{what}");
    }
}

/// A dead receiver holds up nobody else; what waits for it waits on disk, and goes when it lives.
#[test]
fn dead_receiver() {
    let place = Place::new();
    // A port that nobody listens at.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    place.config(&format!(
        "[sinks.http]\ntype = \"http\"\nurl = \"http://{address}/\"\n\
         [sinks.file]\ntype = \"file\"\npath = \"DIR/file.jsonl\"\n",
    ));
    let output = place.deliver(&events(200), &["--timeout", "5s"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("sink http: 200 records are not delivered; they wait on disk"),
        "{said}"
    );
    let all: Vec<_> = (0..200).collect();
    assert_eq!(numbers(&place.read("file.jsonl")), all);
    let receiver = Receiver::listen(TcpListener::bind(address).unwrap(), |_| Answer::Ok);
    place.delivered(&[]);
    assert_eq!(numbers(&receiver.text()), all);
    assert_eq!(numbers(&place.read("file.jsonl")), all, "and nothing twice");
}

/// An event that the receiver refuses is set aside; those before and after it arrive.
#[test]
fn poison_event() {
    let place = Place::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let theirs = bodies.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while let Some((_, body)) = request(&mut reader) {
                let poison = body.contains("\"e-77\"");
                let answer = if poison {
                    Answer::Status(400, "")
                } else {
                    Answer::Ok
                };
                reply(&stream, &answer, &body, &theirs);
            }
        }
    });
    place.config(&format!(
        "[sinks.http]\ntype = \"http\"\nurl = \"http://{address}/\"\n"
    ));
    place.delivered(&events(100));
    let expected: Vec<_> = (0..100).filter(|number| *number != 77).collect();
    assert_eq!(numbers(&bodies.lock().unwrap().concat()), expected);
    assert_eq!(numbers(&place.read("spool/http/refused.jsonl")), [77]);
}

/// A disk that is full keeps nobody from delivery, nor does a folder that cannot be made.
#[test]
fn no_room_for_the_spool() {
    let place = Place::new();
    fs::write(place.path("spool"), "no folder").unwrap();
    place.config("[sinks.file]\ntype = \"file\"\npath = \"DIR/file.jsonl\"\n");
    let output = place.deliver(&events(200), &[]);
    assert!(output.status.success(), "{output:?}");
    let all: Vec<_> = (0..200).collect();
    assert_eq!(numbers(&place.read("file.jsonl")), all);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("kept in memory for now"), "{said}");
    assert_eq!(
        said.matches("kept in memory").count(),
        1,
        "said once: {said}"
    );
}

/// The disk that records should wait on is full, or cannot be written: they wait in memory, the trace
/// goes on, all arrive when the receiver lives, and the other sink got them at once.
#[test]
fn no_room_on_the_disk() {
    for options in ["size=128k", "ro"] {
        let place = Place::new();
        let folder = place.folder.path().display().to_string();
        let alive = Arc::new(AtomicBool::new(false));
        let theirs = alive.clone();
        let receiver = Receiver::start(move |_| match theirs.load(SeqCst) {
            true => Answer::Ok,
            false => Answer::Status(503, ""),
        });
        place.config(&format!(
            "[sinks.http]\ntype = \"http\"\nurl = \"http://{}/\"\n\
             [sinks.file]\ntype = \"file\"\npath = \"DIR/file.jsonl\"\nspool = false\n",
            receiver.address
        ));
        let events = events(60);
        fs::write(place.path("events.jsonl"), events.join("\n")).unwrap();
        fs::create_dir(place.path("spool")).unwrap();
        let script = "mount -t tmpfs -o \"$3\" tmpfs \"$2/spool\" && \
             exec \"$1\" deliver --config \"$2/config.toml\" \"$2/events.jsonl\" 2> \"$2/said\"";
        let mut child = Command::new("unshare")
            .args(["-m", "bash", "-c", script, "-"])
            .args([env!("CARGO_BIN_EXE_oomtrace"), &folder, options])
            .spawn()
            .unwrap();
        let all: Vec<_> = (0..60).collect();
        wait_for("the other sink", || {
            (place.read("file.jsonl").lines().count() == 60).then_some(())
        });
        assert_eq!(numbers(&place.read("file.jsonl")), all, "{options}");
        wait_for("the disk's trouble", || {
            let said = place.read("said");
            said.contains("kept in memory for now").then_some(())
        });
        alive.store(true, SeqCst);
        let status = child.wait().unwrap();
        assert!(status.success(), "{options}: {}", place.read("said"));
        assert_eq!(numbers(&receiver.text()), all, "{options}");
        assert_eq!(numbers(&place.read("file.jsonl")), all, "{options}");
    }
}

/// A file that is full says so, and what waits is there when there is room.
#[test]
fn full_disk() {
    let place = Place::new();
    place.config(
        "[sinks.full]\ntype = \"file\"\npath = \"/dev/full\"\n\
         [sinks.file]\ntype = \"file\"\npath = \"DIR/file.jsonl\"\n",
    );
    let output = place.deliver(&events(50), &["--timeout", "5s"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    let all: Vec<_> = (0..50).collect();
    assert_eq!(numbers(&place.read("file.jsonl")), all);
    place.config("[sinks.full]\ntype = \"file\"\npath = \"DIR/full.jsonl\"\n");
    place.delivered(&[]);
    assert_eq!(numbers(&place.read("full.jsonl")), all);
}

/// Files rotate by size, are packed, and only as many are kept; all their lines are whole.
#[test]
fn rotation() {
    let place = Place::new();
    place.config(
        "[sinks.file]\ntype = \"file\"\npath = \"DIR/events.jsonl\"\nrotate_size = \"300KiB\"\n\
         keep = 3\ncompress = true\n",
    );
    for part in events(2000).chunks(100) {
        place.delivered(part);
    }
    let names = || {
        let mut names: Vec<_> = fs::read_dir(place.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("events"))
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names(),
        [
            "events.jsonl",
            "events.jsonl.1.gz",
            "events.jsonl.2.gz",
            "events.jsonl.3.gz"
        ]
    );
    let read = Command::new(env!("CARGO_BIN_EXE_oomtrace"))
        .args(["show", "--format", "json"])
        .arg(format!("{}/events.jsonl*", place.folder.path().display()))
        .output()
        .unwrap();
    let numbers = numbers(&String::from_utf8(read.stdout).unwrap());
    assert_eq!(numbers.last(), Some(&1999));
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "{numbers:?}"
    );
}

/// A sink writes what `oomtrace show` writes in its format; every file of a table has its heading, and
/// no file is longer than it may be.
#[test]
fn formats_of_sinks() {
    let events = events(40);
    for format in ["pretty", "csv", "ecs", "ocsf", "falco"] {
        let place = Place::new();
        place.config(&format!(
            "[sinks.whole]\ntype = \"file\"\npath = \"DIR/whole\"\nformat = \"{format}\"\n\
             [sinks.parts]\ntype = \"file\"\npath = \"DIR/parts\"\nformat = \"{format}\"\n\
             rotate_size = \"64KiB\"\nkeep = 1000\n"
        ));
        place.delivered(&events);
        let shown = common::oomtrace(&["show", "--format", format], events.join("\n").as_bytes());
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert_eq!(place.read("whole"), shown, "{format}");
        let mut parts: Vec<_> = (1..)
            .map_while(|number| {
                let name = format!("parts.{number}");
                place.path(&name).exists().then(|| place.read(&name))
            })
            .collect();
        parts.reverse();
        parts.push(place.read("parts"));
        assert!(parts.iter().all(|part| part.len() <= 64 << 10), "{format}");
        assert!(parts.len() > 1 || shown.len() <= 64 << 10, "{format}");
        let heading = shown.find('\n').map_or("", |end| &shown[..=end]);
        let bare: String = match format {
            "csv" => parts
                .iter()
                .map(|part| part.strip_prefix(heading).unwrap())
                .collect(),
            _ => parts.concat(),
        };
        let all = if format == "csv" {
            heading.to_owned() + &bare
        } else {
            bare
        };
        assert_eq!(all, shown, "{format}");
    }
}

/// A line that a crash has cut off goes, another one is ended.
#[test]
fn torn_line() {
    for (before, after) in [
        ("{\"kind\":\"oom_kill\",\"sch", ""),
        ("{\"@timestamp\":\"2026-", ""),
        ("{\"kind\":\"x\"}", "{\"kind\":\"x\"}\n"),
        ("# a comment", "# a comment\n"),
    ] {
        let place = Place::new();
        place.config("[sinks.file]\ntype = \"file\"\npath = \"DIR/file.jsonl\"\n");
        fs::write(place.path("file.jsonl"), format!("first\n{before}")).unwrap();
        place.delivered(&events(1));
        let text = place.read("file.jsonl");
        let rest = text.strip_prefix(&format!("first\n{after}")).unwrap();
        assert_eq!(numbers(rest), [0], "{before}");
    }
}

/// The shapes of batches: what the receivers' documentation asks for.
#[test]
fn shapes_of_batches() {
    let event = events(1).remove(0);
    let original: Value = serde_json::from_str(&event).unwrap();
    let send = |more: &str, answer: &'static str| -> (String, String) {
        let place = Place::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        fs::write(place.path("token"), "s3cret\n").unwrap();
        place.config(&format!(
            "[sinks.http]\ntype = \"http\"\nurl = \"http://{address}/\"\n{more}"
        ));
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let request = request(&mut reader).unwrap();
            let length = answer.len();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{answer}");
            stream.write_all(answer.as_bytes()).unwrap();
            request
        });
        place.delivered(std::slice::from_ref(&event));
        server.join().unwrap()
    };
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();

    let (head, body) = send(
        "preset = \"splunk-hec\"\ntoken_file = \"DIR/token\"\nindex = \"main\"\n",
        "{}",
    );
    assert!(
        head.starts_with("POST /services/collector/event "),
        "{head}"
    );
    assert!(head.contains("authorization: Splunk s3cret\r\n"), "{head}");
    let entry = json(&body);
    assert_eq!(entry["event"]["victim"]["pid"], original["victim"]["pid"]);
    assert_eq!(
        (&entry["index"], &entry["fields"]["event_id"]),
        (&"main".into(), &"e-0".into())
    );
    let ns: u64 = original["time_unix_ns"].as_str().unwrap().parse().unwrap();
    let time = format!("\"time\":{}.{:09},", ns / 1_000_000_000, ns % 1_000_000_000);
    assert!(body.contains(&time), "{body}");

    let bulk = r#"{"errors":false,"items":[{"create":{"status":409}}]}"#;
    let (head, body) = send(
        "preset = \"elasticsearch\"\nusername = \"u\"\npassword_file = \"DIR/token\"\n",
        bulk,
    );
    assert!(head.starts_with("POST /_bulk "), "{head}");
    assert!(
        head.contains("authorization: Basic dTpzM2NyZXQ=\r\n"),
        "{head}"
    );
    let (action, document) = body.split_once('\n').unwrap();
    assert_eq!(
        json(action),
        json(r#"{"create":{"_index":"oomtrace","_id":"e-0"}}"#)
    );
    assert_eq!(json(document)["event_id"], "e-0");

    let (head, body) = send("preset = \"loki\"\nlabels = { cluster = \"c\" }\n", "");
    assert!(head.starts_with("POST /loki/api/v1/push "), "{head}");
    let body = json(&body);
    let stream = &body["streams"][0];
    assert_eq!(stream["stream"]["kind"], "oom_kill");
    assert_eq!(stream["stream"]["cluster"], "c");
    assert_eq!(stream["values"][0][0], original["time_unix_ns"]);
    assert_eq!(
        json(stream["values"][0][1].as_str().unwrap())["event_id"],
        "e-0"
    );

    let (head, body) = send("preset = \"cloudevents\"\n", "");
    assert!(
        head.contains("content-type: application/cloudevents-batch+json\r\n"),
        "{head}"
    );
    let cloudevent = &json(&body)[0];
    assert_eq!(
        (&cloudevent["specversion"], &cloudevent["id"]),
        (&"1.0".into(), &"e-0".into())
    );
    assert_eq!(cloudevent["type"], "oomtrace.oom_kill");
    assert_eq!(cloudevent["data"]["event_id"], "e-0");
}

/// A real TLS server, made by openssl: with a name that is wrong, a certificate that has expired, or
/// one of nobody known it gets nothing, and it is said why; with a good one it gets everything.
#[test]
fn tls() {
    let place = Place::new();
    let folder = place.folder.path();
    certificates(folder);
    // The one that ends in the second it was made in.
    std::thread::sleep(Duration::from_millis(1100));
    for (certificate, ca, said) in [
        ("wrong", "ca", "it is for another name"),
        ("old", "ca", "it has expired"),
        ("good", "other", "it is signed by nobody whom"),
        ("good", "ca", ""),
    ] {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut server = Command::new("openssl")
            .args(["s_server", "-quiet", "-port", &port.to_string()])
            .args([
                "-cert",
                &format!("{certificate}.pem"),
                "-key",
                &format!("{certificate}.key"),
            ])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(fs::File::create(place.path("got")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("openssl", || TcpStream::connect(("127.0.0.1", port)).ok());
        let spool = format!("{certificate}-{ca}");
        place.config(&format!(
            "[sinks.{spool}]\ntype = \"syslog\"\naddress = \"tls://localhost:{port}\"\nca_file = \"DIR/{ca}.pem\"\n"
        ));
        let output = place.deliver(&events(3), &["--timeout", "5s"]);
        let count = || place.read("got").matches("<27>1 ").count();
        if output.status.success() {
            // Its kernel has them all; it may not have read them.
            wait_for("what was sent", || (count() == 3).then_some(()));
        }
        server.kill().unwrap();
        server.wait().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            output.status.success(),
            said.is_empty(),
            "{certificate} {ca}: {told}"
        );
        assert!(told.contains(said), "{certificate} {ca}: {told}");
        let expected = if said.is_empty() { 3 } else { 0 };
        assert_eq!(count(), expected, "{certificate} {ca}");
    }
}

/// A real rsyslog gets every message whole, with a header that it understands, over TCP and UDP and
/// a Unix socket; it is stopped in between and started again.
#[test]
fn rsyslog() {
    if !Path::new("/usr/sbin/rsyslogd").exists() {
        missing("rsyslogd");
        return;
    }
    let place = Place::new();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let folder = place.folder.path().display().to_string();
    let text = format!(
        "global(workDirectory=\"DIR\" maxMessageSize=\"8k\")\n\
         module(load=\"imtcp\")\nmodule(load=\"imudp\")\nmodule(load=\"imuxsock\" SysSock.Use=\"off\")\n\
         template(name=\"line\" type=\"string\" string=\"%app-name% %msgid% %syslogseverity% %timestamp:::date-rfc3339% %msg%\\n\")\n\
         ruleset(name=\"tcp\") {{ action(type=\"omfile\" file=\"DIR/tcp.log\" template=\"line\") }}\n\
         ruleset(name=\"udp\") {{ action(type=\"omfile\" file=\"DIR/udp.log\" template=\"line\") }}\n\
         ruleset(name=\"unix\") {{ action(type=\"omfile\" file=\"DIR/unix.log\" template=\"line\") }}\n\
         input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{port}\" ruleset=\"tcp\")\n\
         input(type=\"imudp\" address=\"127.0.0.1\" port=\"{port}\" ruleset=\"udp\" rcvbufSize=\"8m\")\n\
         input(type=\"imuxsock\" Socket=\"DIR/log.sock\" ruleset=\"unix\" UseSpecialParser=\"off\" UseSysTimeStamp=\"off\" IgnoreTimestamp=\"off\" RateLimit.Interval=\"0\")\n"
    )
    .replace("DIR", &folder);
    fs::write(place.path("rsyslog.conf"), text).unwrap();
    let start = || {
        let child = Command::new("/usr/sbin/rsyslogd")
            .args(["-n", "-i", "NONE", "-f"])
            .arg(place.path("rsyslog.conf"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("rsyslogd", || TcpStream::connect(("127.0.0.1", port)).ok());
        child
    };
    let stop = |mut child: Child| {
        let id = child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().unwrap();
        child.wait().unwrap();
    };
    place.config(&format!(
        "[sinks.tcp]\ntype = \"syslog\"\naddress = \"tcp://127.0.0.1:{port}\"\n\
         [sinks.udp]\ntype = \"syslog\"\naddress = \"udp://127.0.0.1:{port}\"\n\
         [sinks.unix]\ntype = \"syslog\"\naddress = \"unix://DIR/log.sock\"\n"
    ));
    let events = events(120);
    let daemon = start();
    place.delivered(&events[..60]);
    let all_there = |names: &[&str], count: usize| {
        for name in names {
            wait_for(name, || {
                (place.read(name).lines().count() == count).then_some(())
            });
        }
    };
    all_there(&["tcp.log", "udp.log", "unix.log"], 60);
    stop(daemon);
    let output = place.deliver(&events[60..], &["--timeout", "500ms"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let daemon = start();
    place.delivered(&[]);
    all_there(&["tcp.log", "unix.log"], 120);
    stop(daemon);
    for name in ["tcp.log", "udp.log", "unix.log"] {
        let text = place.read(name);
        let messages = text.lines().map(|line| {
            let mut parts = line.splitn(5, ' ');
            let mut next = || parts.next().unwrap();
            let header = (next(), next(), next());
            assert_eq!(header, ("oomtrace", "oom_kill", "3"), "{name}");
            let time = next();
            let json = next().trim_start();
            let event: Value = serde_json::from_str(json).unwrap();
            // The daemon's clock is that of the event, to the microsecond.
            assert_eq!(
                &time[..26],
                &event["time"].as_str().unwrap()[..26],
                "{name}"
            );
            json.to_owned() + "\n"
        });
        let numbers = numbers(&messages.collect::<String>());
        if name == "udp.log" {
            // Nobody tells of a datagram that nobody took.
            assert_eq!(numbers[..60], (0..60).collect::<Vec<_>>());
        } else {
            assert_eq!(numbers, (0..120).collect::<Vec<_>>(), "{name}");
        }
    }
}

/// A real journald, in a mount namespace of its own, gets every record whole, short or long.
#[test]
fn journald() {
    let place = Place::new();
    place.config("[sinks.journal]\ntype = \"journald\"\n");
    let events = events(50);
    let mut lines = events.join("\n");
    // Longer than a datagram may be.
    let mut long: Value = serde_json::from_str(&events[0]).unwrap();
    long["event_id"] = "e-50".into();
    long["verdict"]["summary"] = "so long ".repeat(100_000).into();
    lines = format!("{lines}\n{long}\n");
    fs::write(place.path("events.jsonl"), lines).unwrap();
    let script = "set -e\nmount -t tmpfs tmpfs /run\nmkdir -p /run/systemd/journal /run/log/journal\n\
        /lib/systemd/systemd-journald 2>/dev/null &\n\
        for i in $(seq 400); do [ -S /run/systemd/journal/socket ] && break; sleep 0.05; done\n\
        \"$1\" deliver --config \"$2/config.toml\" \"$2/events.jsonl\"\n\
        for i in $(seq 400); do\n\
        journalctl -D /run/log/journal --all -o json OOMTRACE_KIND=oom_kill > \"$2/journal\"\n\
        [ $(wc -l < \"$2/journal\") -ge 51 ] && break; sleep 0.05; done\n\
        kill $!\n";
    let output = Command::new("unshare")
        .args([
            "-m",
            "bash",
            "-c",
            script,
            "-",
            env!("CARGO_BIN_EXE_oomtrace"),
        ])
        .arg(place.folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut records = String::new();
    for line in place.read("journal").lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (&entry["SYSLOG_IDENTIFIER"], &entry["PRIORITY"]),
            (&"oomtrace".into(), &"3".into())
        );
        let record = entry["OOMTRACE_RECORD"].as_str().unwrap();
        let event: Value = serde_json::from_str(record).unwrap();
        assert_eq!(entry["OOMTRACE_EVENT_ID"], event["event_id"]);
        assert_eq!(entry["MESSAGE"], event["verdict"]["summary"]);
        records = records + record + "\n";
    }
    assert_eq!(numbers(&records), (0..=50).collect::<Vec<_>>());
}

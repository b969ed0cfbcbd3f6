//! The running tracer: hooks and kernel log in, records out, until it is told to stop.

mod output;

use std::{
    collections::HashMap,
    io,
    os::fd::{AsRawFd, RawFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    delivery::SinkLoss,
    event::{
        self, Clock, Event, Head, Hook, LateEnrichment, Limits, Loss, LossPlace, Node, OomKill,
        Phase, PodEviction, Reconciliation, Role, SourceKind, Status, Totals, UserspaceKill,
        boottime_ns,
    },
    host::{self, Host},
    incident::{
        Answered, Assembler, Directory, Evicted, Incident, Joiner, Kill, News, Question, Sources,
    },
    kernel_log::{self, KmsgReader},
    kubernetes::{self, Kubernetes},
    node::{Root, cgroups::Paths},
    oomd::{self, Killed},
    probe::{HookSet, Probe, Request, decode::Task},
    process,
    sink::QUEUE_BYTES,
};

pub use output::Destination;
use output::Output;

/// How long a stopping tracer waits for the reader of its output.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How long a stopping tracer waits for kills under way.
const SETTLE: Duration = Duration::from_millis(100);
/// How long the next part of a decision is looked for without sleeping.
const LOOK_AGAIN_NS: u64 = 300_000;
/// How long parts may come so, before the next one is slept for.
const LOOK_AT_MOST_NS: u64 = 5_000_000;

/// How long facts about the pods of a kill are waited for after its record has gone out.
const LATE: Duration = Duration::from_secs(10);
/// How long a stopping tracer waits for them.
const LAST_FACTS: Duration = Duration::from_secs(1);

/// What to do, validated.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where records go.
    pub destination: Destination,
    /// Stop after this long.
    pub duration: Option<Duration>,
    /// Stop after this many kills.
    pub max_events: Option<u64>,
    /// A `status` record this often.
    pub heartbeat: Option<Duration>,
    /// The hooks that may be used.
    pub hooks: HookSet,
    /// How many candidates an event lists.
    pub candidates: usize,
    /// Size of the ring buffer, in bytes.
    pub ring_bytes: u32,
    /// The tracer's own `oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// Whether the programs log.
    pub ebpf_log: bool,
    /// The kernel's BTF, where it is not in its usual place.
    pub btf: Option<PathBuf>,
    /// What pods are known from; `None` for nothing.
    pub kubernetes: Option<kubernetes::Options>,
    /// This node's name in Kubernetes.
    pub node_name: Option<String>,
}

/// Why the tracer stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Signal(&'static str),
    Duration,
    MaxEvents,
    /// The reader of the output has gone.
    OutputClosed,
}

impl Stop {
    const fn reason(self) -> &'static str {
        match self {
            Self::Signal(name) => name,
            Self::Duration => "the duration is over",
            Self::MaxEvents => "as many kills as asked for",
            Self::OutputClosed => "the output was closed",
        }
    }
}

/// The kernel log, read line by line.
struct Log {
    reader: KmsgReader,
    parser: kernel_log::Parser,
    buffer: Box<[u8]>,
    scratch: Vec<u8>,
}

/// The tracer.
pub struct Tracer {
    options: Options,
    probe: Probe,
    log: Option<Log>,
    joiner: Joiner,
    assembler: Assembler,
    kubernetes: Option<Kubernetes>,
    hooks: Arc<[Hook]>,
    limits: Limits,
    output: Output,
    totals: Totals,
    seq: u64,
    dropped: u64,
    dropped_kills: u64,
    lost_at: HashMap<LossPlace, u64>,
    oom_kills_before: Option<u64>,
}

impl Tracer {
    /// Attaches the hooks. Within a tokio runtime.
    ///
    /// # Errors
    /// When the kernel refuses the first rung of the ladder, or standard output is closed.
    pub fn start(options: Options, host: &Host) -> Result<Self> {
        let (log, log_hook) = open_log(options.hooks);
        let mut probe = Probe::attach(
            &Request {
                hooks: options.hooks,
                ring_bytes: options.ring_bytes,
                ebpf_log: options.ebpf_log,
                btf: options.btf.as_deref(),
            },
            host,
        )?;
        let oom_kills_before = host::vmstat_oom_kills();
        let mut hooks = probe.take_hooks();
        hooks.push(log_hook);
        hooks.push(vmstat_hook(oom_kills_before.is_some()));

        let oom_score_adj = process::set_oom_score_adj(options.oom_score_adj);
        process::run_early();
        // Opens what is read of each outcome, before memory is short.
        let _ = host::after();
        process::release_memory();
        let memory_locked = process::lock_memory();
        process::drop_capabilities();
        let output = Output::open(options.destination.clone())?;
        // Their thread has no capabilities either, and reads nothing before this one has its own.
        let kubernetes = match options.kubernetes.clone() {
            Some(options) => Kubernetes::start(options).context("starting the sources of pods")?,
            None => None,
        };

        let attached = |name: &str| hooks.iter().any(|hook| hook.attached && hook.name == name);
        let joiner = Joiner::new(Sources {
            log: log.is_some(),
            decision_end: attached("fexit:oom_kill_process")
                || attached("kretprobe:oom_kill_process"),
            exits: attached("raw_tp:sched_process_exit"),
        });
        let assembler = Assembler {
            node: Arc::new(Node {
                k8s_node_name: options.node_name.clone(),
                ..host::node()
            }),
            hooks: attached_names(&hooks),
            run_id: host::random_uuid().context("naming this run")?,
            page_size: rustix::param::page_size() as u64,
            max_candidates: options.candidates,
            directory: kubernetes
                .as_ref()
                .map(|kubernetes| Arc::clone(&kubernetes.pods) as Arc<dyn Directory>),
            cgroups: Some(Box::new(Paths::new(Root::new("/".into())))),
        };
        let limits = Limits {
            ring_buffer_bytes: options.ring_bytes.into(),
            output_queue_bytes: QUEUE_BYTES as u64,
            candidates: u32::try_from(options.candidates).unwrap_or(u32::MAX),
            memory_locked,
            oom_score_adj,
        };
        Ok(Self {
            options,
            probe,
            log,
            joiner,
            assembler,
            kubernetes,
            hooks: hooks.into(),
            limits,
            output,
            totals: Totals::default(),
            seq: 0,
            dropped: 0,
            dropped_kills: 0,
            lost_at: HashMap::new(),
            oom_kills_before,
        })
    }

    /// The hook ladder.
    pub fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// Watches until told to stop.
    ///
    /// # Errors
    /// When the output cannot be written, other than because its reader has gone.
    pub async fn run(mut self) -> Result<()> {
        let started = Instant::now();
        let mut oomd = oomd::listen();
        let mut interrupt = signal(SignalKind::interrupt()).context("watching SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("watching SIGTERM")?;
        // Without a file to read again it ends the tracer, as it ends every program.
        let mut hangup = if self.output.can_reload() {
            Some(signal(SignalKind::hangup()).context("watching SIGHUP")?)
        } else {
            None
        };
        let ring = readable(self.probe.as_raw_fd()).context("watching the ring buffer")?;
        let kmsg = self
            .log
            .as_ref()
            .map(|log| readable(log.reader.as_raw_fd()))
            .transpose()
            .context("watching /dev/kmsg")?;
        let ends = self.options.duration.map(|duration| started + duration);
        let mut beats = self.options.heartbeat.map(|period| started + period);

        self.status(Phase::Start, None, self.reconcile());
        let stop = loop {
            self.step();
            match self.output.flush_some() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    break Stop::OutputClosed;
                }
                Err(error) => return Err(error).context("writing to standard output"),
            }
            if self
                .options
                .max_events
                .is_some_and(|most| self.totals.kills >= most)
            {
                break Stop::MaxEvents;
            }
            let patience = self.joiner.deadline_ns().map(|deadline| {
                Instant::now() + Duration::from_nanos(deadline.saturating_sub(boottime_ns()))
            });
            tokio::select! {
                biased;
                _ = interrupt.recv() => break Stop::Signal("SIGINT"),
                _ = terminate.recv() => break Stop::Signal("SIGTERM"),
                ready = ring.readable(), if self.output.has_room() => {
                    ready.context("watching the ring buffer")?.clear_ready();
                }
                ready = poll(kmsg.as_ref()) => {
                    ready.context("watching /dev/kmsg")?.clear_ready();
                }
                _ = next_signal(hangup.as_mut()) => self.output.reload(),
                written = self.output.next() => match written {
                    Ok(lost) => self.sinks_lost(lost),
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        break Stop::OutputClosed;
                    }
                    Err(error) => return Err(error).context("writing to standard output"),
                },
                news = next_news(self.kubernetes.as_mut()) => self.news(news),
                Some(killed) = oomd.recv() => self.userspace_kill(killed),
                () = until(patience) => {}
                () = until(ends) => break Stop::Duration,
                () = until(beats) => {
                    beats = self.options.heartbeat.map(|period| Instant::now() + period);
                    self.status(Phase::Heartbeat, None, self.reconcile());
                }
            }
        };
        while let Ok(killed) = oomd.try_recv() {
            self.userspace_kill(killed);
        }
        self.finish(stop).await
    }

    /// Takes everything there is to take, and queues what it makes.
    ///
    /// The parts of a decision follow one another within microseconds, but readers of the kernel log
    /// are woken at the next tick of the clock: looking again for a moment is quicker than sleeping.
    fn step(&mut self) {
        let began = boottime_ns();
        let mut until = began + LOOK_AGAIN_NS;
        loop {
            // What was there by now is read before anything is given up as late, however long this
            // process was kept from running meanwhile.
            let now = boottime_ns();
            let took = self.take_records();
            let lines = self.read_log();
            self.emit(now);
            if lines {
                until = (now + LOOK_AGAIN_NS).min(began + LOOK_AT_MOST_NS);
            }
            if !took && (!self.joiner.awaits_more() || now >= until) {
                break;
            }
            std::hint::spin_loop();
        }
        self.joiner.expect_no_more();
        self.probe.flush_log();
    }

    /// Whether there were any.
    fn take_records(&mut self) -> bool {
        let mut took = false;
        while self.output.has_room()
            && let Some(record) = self.probe.next_record()
        {
            took = true;
            match record {
                Ok(record) => self.joiner.record(record, boottime_ns()),
                Err(error) => tracing::error!(%error, "the programs sent what is no record"),
            }
            // What is complete; what others wait for may be the next record.
            self.emit(0);
        }
        self.losses();
        took
    }

    /// Takes back that candidates are seen, once a decision came without any: a compiler may put
    /// `oom_badness` into its caller, and the hook stays on the copy nobody calls (seen on 5.10).
    fn hooks_that_never_fire(&mut self) {
        let scoring = |hook: &Hook| hook.attached && hook.name.ends_with(":oom_badness");
        if !self.joiner.unscored() || !self.hooks.iter().any(scoring) {
            return;
        }
        let mut hooks = self.hooks.to_vec();
        for hook in hooks.iter_mut().filter(|hook| scoring(hook)) {
            hook.attached = false;
            hook.reason = Some("it never fires: the compiler inlined oom_badness".to_owned());
        }
        tracing::info!("candidates come from the kernel log: the hook of oom_badness never fires");
        self.assembler.hooks = attached_names(&hooks);
        self.hooks = hooks.into();
    }

    /// Whether the kernel log has grown.
    fn read_log(&mut self) -> bool {
        let Some(log) = &mut self.log else {
            return false;
        };
        let now = boottime_ns();
        let Log {
            reader,
            parser,
            buffer,
            scratch,
        } = log;
        let mut outputs = Vec::new();
        let mut grown = false;
        let read = reader.read_available(buffer, |entry| {
            grown = true;
            match entry {
                kernel_log::Entry::Record(record) => {
                    if let Some(line) = record.kernel_line(scratch) {
                        parser.feed(&line, &mut |output| outputs.push(output));
                    }
                }
                kernel_log::Entry::Gap { missing } => {
                    parser.gap(missing, &mut |output| outputs.push(output));
                }
                kernel_log::Entry::Invalid(error) => {
                    tracing::debug!(%error, "/dev/kmsg");
                }
            }
        });
        for output in outputs {
            if let kernel_log::Output::Gap { missing } = output {
                self.loss(LossPlace::KernelLog, missing, 0);
            }
            self.joiner.log(output, now);
        }
        if let Err(error) = read {
            tracing::warn!(%error, "reading /dev/kmsg failed; going on without the kernel log");
            self.log = None;
        }
        grown
    }

    /// Queues what is complete, and what has waited long enough by `now_ns`.
    fn emit(&mut self, now_ns: u64) {
        self.hooks_that_never_fire();
        while let Some(incident) = self.joiner.next(now_ns) {
            let clock = Clock::now();
            let event = match &incident {
                Incident::Kill(kill) => {
                    let counter = match (kill.victim.killed, kill.role) {
                        (false, _) => &mut self.totals.marks,
                        (true, Some(Role::MmSharer)) => &mut self.totals.mm_sharers,
                        (true, _) => &mut self.totals.kills,
                    };
                    *counter += 1;
                    let event = self.assembler.kill(kill, clock, host::memory_sizes());
                    self.ask(kill, &event);
                    event
                }
                Incident::Outcome(outcome) => {
                    self.totals.outcomes += 1;
                    self.assembler.outcome(outcome, clock, host::after())
                }
            };
            self.write(event);
        }
    }

    /// Asks for what is not known of a kill's pods; the record does not wait for it.
    fn ask(&mut self, kill: &Kill, event: &Event) {
        let (Event::OomKill(event) | Event::OomMark(event)) = event else {
            return;
        };
        let OomKill {
            head,
            oom_id,
            victim,
            enrichment,
            ..
        } = &**event;
        if enrichment.as_ref().is_none_or(|known| known.complete) {
            return;
        }
        if victim.pod.as_ref().is_some_and(|pod| pod.name.is_none()) {
            self.totals.unresolved += 1;
        }
        let path = |task: &Task| {
            let path = task.cgroup.as_ref()?.path.as_ref()?;
            Some((path.bytes.clone(), path.cut))
        };
        let question = Question {
            event_id: head.event_id.clone(),
            oom_id: oom_id.clone(),
            deadline: Instant::now() + LATE,
            paths: [path(&kill.victim.task), path(&kill.victim.trigger)],
        };
        if let Some(kubernetes) = &mut self.kubernetes
            && !kubernetes.ask(question)
        {
            tracing::debug!("too many kills are asked about; {} is not", head.event_id);
        }
    }

    fn news(&mut self, news: News) {
        match news {
            News::Answered(answered) => self.late(*answered),
            News::Evicted(evicted) => self.evicted(*evicted),
        }
    }

    /// Writes that the kubelet evicted a pod.
    fn evicted(&mut self, evicted: Evicted) {
        let Evicted {
            pod,
            eviction,
            node_conditions,
            enrichment,
        } = evicted;
        let id = format!("{}-eviction", pod.uid);
        let head = self.head_of_others(id, SourceKind::PodStatus);
        self.write(Event::PodEviction(Box::new(PodEviction {
            head,
            pod,
            eviction,
            node_conditions,
            enrichment,
        })));
    }

    /// Writes that systemd-oomd killed a cgroup.
    fn userspace_kill(&mut self, killed: Killed) {
        let Killed { cgroup, reason } = killed;
        let known = self.assembler.look_up(cgroup.as_bytes(), false);
        let id = self.head("userspace-kill").event_id;
        let head = self.head_of_others(id, SourceKind::SystemBus);
        self.write(Event::UserspaceKill(Box::new(UserspaceKill {
            head,
            killer: "systemd-oomd".to_owned(),
            reason,
            level: known.placement.level,
            whose: known.whose,
            enrichment: known.enrichment,
            cgroup_path: cgroup,
        })));
    }

    /// The head of a record of what no hook has seen.
    fn head_of_others(&self, id: String, kind: SourceKind) -> Head {
        let mut head = self.assembler.head(id, boottime_ns(), Clock::now());
        head.source = event::Source {
            kind,
            hooks: Arc::default(),
            merged: Vec::new(),
        };
        head
    }

    /// Writes what was learnt of a kill's pods after its record.
    fn late(&mut self, answered: Answered) {
        let Answered {
            question,
            whose: [victim, trigger],
            enrichment: Some(enrichment),
        } = answered
        else {
            return;
        };
        let head = self
            .assembler
            .head(question.event_id.clone(), boottime_ns(), Clock::now());
        self.write(Event::Enrichment(Box::new(LateEnrichment {
            head,
            oom_id: question.oom_id.clone(),
            victim,
            trigger,
            enrichment,
        })));
    }

    fn write(&mut self, mut event: Event) {
        event.head_mut().seq = self.seq;
        self.seq += 1;
        self.output.push(&event);
    }

    fn head(&self, name: &str) -> Head {
        let id = format!("{}-{}-{name}", self.assembler.run_id, self.seq);
        self.assembler.head(id, boottime_ns(), Clock::now())
    }

    /// Declares what the programs could not send.
    fn losses(&mut self) {
        let counters = self.probe.counters();
        let dropped = counters.dropped.iter().sum::<u64>();
        if dropped == self.dropped {
            return;
        }
        let lost = dropped - self.dropped;
        let lost_kills = counters.dropped_kills - self.dropped_kills;
        (self.dropped, self.dropped_kills) = (dropped, counters.dropped_kills);
        self.joiner.lost();
        self.loss(LossPlace::RingBuffer, Some(lost), lost_kills);
    }

    fn loss(&mut self, place: LossPlace, lost: Option<u64>, lost_kills: u64) {
        let total = self.lost_at.entry(place).or_default();
        *total += lost.unwrap_or(0);
        let lost_total = *total;
        if place == LossPlace::RingBuffer {
            self.totals.lost += lost.unwrap_or(0);
        }
        self.write_loss(place, None, lost, lost_kills, lost_total);
    }

    /// Declares what did not fit into the queues of sinks.
    fn sinks_lost(&mut self, lost: Vec<SinkLoss>) {
        for SinkLoss { sink, lost, total } in lost {
            let place = LossPlace::Sink;
            self.write_loss(place, Some(sink), Some(lost.records), lost.kills, total);
        }
    }

    fn write_loss(
        &mut self,
        place: LossPlace,
        sink: Option<String>,
        lost: Option<u64>,
        lost_kills: u64,
        lost_total: u64,
    ) {
        let head = self.head("loss");
        let reconciliation = self.reconcile();
        self.write(Event::Loss(Box::new(Loss {
            head,
            place,
            sink,
            lost,
            lost_kills,
            lost_total,
            reconciliation,
        })));
    }

    /// The kernel's count beside ours. It counts a kill just before it is marked, so while kills
    /// are under way it is ahead.
    fn reconcile(&self) -> Option<Reconciliation> {
        let counted = host::vmstat_oom_kills()?.checked_sub(self.oom_kills_before?)?;
        let repeated = self.probe.counters().repeated_kills;
        let (seen, lost) = (self.totals.kills, self.dropped_kills);
        Some(Reconciliation {
            kernel_oom_kills: counted,
            seen,
            repeated,
            lost,
            unaccounted: counted.cast_signed() - (seen + repeated + lost).cast_signed(),
        })
    }

    fn status(
        &mut self,
        phase: Phase,
        reason: Option<&str>,
        reconciliation: Option<Reconciliation>,
    ) {
        self.totals.kernel_reports = self.joiner.reports();
        self.totals.unfollowed = self.joiner.unfollowed() + self.probe.counters().unfollowed;
        let status = Status {
            head: self.head("status"),
            phase,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hooks: Arc::clone(&self.hooks),
            limits: self.limits.clone(),
            totals: self.totals.clone(),
            reconciliation,
            kubernetes: self
                .kubernetes
                .as_ref()
                .map(|kubernetes| kubernetes.pods.status()),
            sinks: self.output.status(),
            resident_bytes: host::resident_bytes(),
            reason: reason.map(str::to_owned),
        };
        self.write(Event::Status(Box::new(status)));
    }

    /// Takes what is left, says goodbye, and waits a while for the reader.
    async fn finish(mut self, stop: Stop) -> Result<()> {
        if stop == Stop::OutputClosed {
            return Ok(());
        }
        match self.say_goodbye(stop).await {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(error).context("writing to standard output"),
            Ok(()) => self.output.close(STOP_PATIENCE),
        }
    }

    async fn say_goodbye(&mut self, stop: Stop) -> io::Result<()> {
        let deadline = Instant::now() + STOP_PATIENCE;
        // Kills that the kernel has counted and not marked yet: that takes microseconds.
        let settled_by = Instant::now() + SETTLE;
        loop {
            self.take_the_rest(deadline).await?;
            let counts = self.reconcile();
            if counts.is_none_or(|counts| counts.unaccounted <= 0) || Instant::now() >= settled_by {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (seen, counts) = (self.totals.kills, self.reconcile());
        self.probe.detach();
        self.take_the_rest(deadline).await?;
        // Kills that the kernel counts from here on are nobody's; those seen on the way out count.
        let counts = counts.map(|counts| Reconciliation {
            kernel_oom_kills: counts.kernel_oom_kills + (self.totals.kills - seen),
            seen: self.totals.kills,
            ..counts
        });
        self.take_the_news(deadline).await;
        // What sinks lose is known when they have got all.
        self.drain(deadline).await?;
        let lost = self.output.take_lost();
        self.sinks_lost(lost);
        self.status(Phase::Stop, Some(stop.reason()), counts);
        self.drain(deadline).await
    }

    /// Waits until all that was written is taken.
    async fn drain(&mut self, deadline: Instant) -> io::Result<()> {
        while !self.output.is_idle() {
            match timeout_at(deadline, self.output.flush()).await {
                Ok(written) => written?,
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Takes all that was sent, waits for what belongs to it, and writes it, as long as somebody
    /// reads.
    async fn take_the_rest(&mut self, deadline: Instant) -> io::Result<()> {
        loop {
            self.step();
            self.output.flush_some()?;
            let taken = self.output.has_room() && !self.joiner.is_waiting();
            if taken || Instant::now() >= deadline {
                return Ok(());
            }
            let moment = Instant::now() + Duration::from_millis(1);
            if self.output.is_idle() {
                sleep_until(moment).await;
            } else if let Ok(written) = timeout_at(moment, self.output.flush()).await {
                written?;
            }
        }
    }

    /// Writes what the sources of pods still tell of what has happened, if that is soon; else what
    /// is known by now.
    async fn take_the_news(&mut self, deadline: Instant) {
        let by = deadline.min(Instant::now() + LAST_FACTS);
        while self
            .kubernetes
            .as_ref()
            .is_some_and(Kubernetes::awaits_more)
            && let Ok(news) = timeout_at(by, next_news(self.kubernetes.as_mut())).await
        {
            self.news(news);
        }
        let rest = self.kubernetes.as_mut().map(Kubernetes::rest);
        for news in rest.into_iter().flatten() {
            self.news(news);
        }
    }
}

fn attached_names(hooks: &[Hook]) -> Arc<[String]> {
    hooks
        .iter()
        .filter(|hook| hook.attached)
        .map(|hook| hook.name.clone())
        .collect()
}

fn open_log(hooks: HookSet) -> (Option<Log>, Hook) {
    let adds = "constraint, limit and candidates, where no hook tells them";
    let fact = |reason: Option<String>| Hook {
        name: "kmsg".to_owned(),
        attached: reason.is_none(),
        adds: adds.to_owned(),
        reason,
    };
    if !hooks.has("kmsg") {
        return (None, fact(Some("not among --hooks".to_owned())));
    }
    match KmsgReader::open() {
        Ok(reader) => {
            let log = Log {
                reader,
                parser: kernel_log::Parser::default(),
                buffer: vec![0; kernel_log::BUFFER_BYTES].into(),
                scratch: Vec::new(),
            };
            (Some(log), fact(None))
        }
        Err(error) => {
            let advice = if error.kind() == io::ErrorKind::PermissionDenied {
                "; it takes CAP_SYSLOG, or kernel.dmesg_restrict=0 and the right to read /dev/kmsg"
            } else {
                ""
            };
            (None, fact(Some(format!("/dev/kmsg: {error}{advice}"))))
        }
    }
}

fn vmstat_hook(there: bool) -> Hook {
    Hook {
        name: "vmstat:oom_kill".to_owned(),
        attached: there,
        adds: "the kernel's count, to reconcile with".to_owned(),
        reason: (!there).then(|| "/proc/vmstat has no oom_kill".to_owned()),
    }
}

/// Polls a descriptor that something else owns.
fn readable(fd: RawFd) -> io::Result<AsyncFd<RawFd>> {
    // SAFETY: the tracer keeps the descriptor open for as long as it runs.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// Waits for a descriptor that may not be there.
async fn poll(
    fd: Option<&AsyncFd<RawFd>>,
) -> io::Result<tokio::io::unix::AsyncFdReadyGuard<'_, RawFd>> {
    match fd {
        Some(fd) => fd.readable().await,
        None => std::future::pending().await,
    }
}

/// Waits for what the sources of pods tell by themselves, if there are any.
async fn next_news(kubernetes: Option<&mut Kubernetes>) -> News {
    match kubernetes {
        Some(kubernetes) => kubernetes.next().await,
        None => std::future::pending().await,
    }
}

/// Waits for a signal that may be nothing to wait for.
async fn next_signal(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Waits for a moment that may never come.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

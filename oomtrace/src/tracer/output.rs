//! Where the tracer's records go: to standard output, or to the agent's sinks.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    config::Config,
    delivery::{Delivery, SinkLoss},
    event::{Event, SinkStatus},
    format::{self, Format},
    metrics::Metrics,
    report::count,
    sink::Stdout,
};

/// Where records go.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Standard output, and nothing between: the way with the least delay.
    Stdout {
        /// How records are written.
        format: Format,
        /// Whether colours are used.
        color: bool,
    },
    /// The sinks of a configuration.
    Sinks {
        /// Its file, which is read again when it is asked for.
        path: PathBuf,
        /// What it says.
        config: Box<Config>,
    },
}

/// Most records are shorter.
const RECORD_BYTES: usize = 16 << 10;

enum To {
    Stdout {
        stdout: Stdout,
        format: Format,
        color: bool,
    },
    Sinks {
        delivery: Delivery,
        path: PathBuf,
        config: Box<Config>,
        metrics: Option<Arc<Metrics>>,
    },
}

pub(super) struct Output {
    to: To,
    /// The record that was written last; kept for its room.
    bytes: Vec<u8>,
}

impl Output {
    pub(super) fn open(destination: Destination) -> Result<Self> {
        let mut bytes = Vec::with_capacity(RECORD_BYTES);
        Ok(Self {
            to: match destination {
                Destination::Stdout { format, color } => {
                    let mut stdout = Stdout::new().context("standard output")?;
                    format.begin(&mut bytes);
                    stdout.push(&bytes);
                    To::Stdout {
                        stdout,
                        format,
                        color,
                    }
                }
                Destination::Sinks { path, config } => {
                    let sinks = config.sinks.clone();
                    let delivery = Delivery::start(sinks).context("starting the sinks")?;
                    let agent = &config.agent;
                    let heartbeat = agent.tracer.heartbeat.0;
                    let heartbeat = Some(heartbeat).filter(|period| !period.is_zero());
                    let serve = |listen| Metrics::serve(listen, delivery.sinks(), heartbeat);
                    let metrics = agent.metrics.listen.map(serve).transpose();
                    To::Sinks {
                        metrics: metrics.context("metrics")?,
                        delivery,
                        path,
                        config,
                    }
                }
            },
            bytes,
        })
    }

    /// Queues a record.
    pub(super) fn push(&mut self, event: &Event) {
        self.bytes.clear();
        match &mut self.to {
            To::Stdout {
                stdout,
                format,
                color,
            } => {
                format.write(event, *color, &mut self.bytes);
                stdout.push(&self.bytes);
            }
            To::Sinks {
                delivery, metrics, ..
            } => {
                if let Some(metrics) = metrics {
                    metrics.count(event);
                }
                format::json(event, &mut self.bytes);
                delivery.push(self.bytes.trim_ascii_end());
            }
        }
    }

    /// Whether there is room for more.
    pub(super) fn has_room(&self) -> bool {
        match &self.to {
            To::Stdout { stdout, .. } => stdout.has_room(),
            To::Sinks { delivery, .. } => delivery.has_room(),
        }
    }

    /// Whether nothing waits to be taken from the tracer.
    pub(super) fn is_idle(&self) -> bool {
        match &self.to {
            To::Stdout { stdout, .. } => stdout.is_idle(),
            To::Sinks { delivery, .. } => delivery.is_idle(),
        }
    }

    /// Writes what can be written now.
    pub(super) fn flush_some(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Stdout { stdout, .. } => stdout.flush_some(),
            To::Sinks { .. } => Ok(()),
        }
    }

    /// Waits until something of what waits was taken.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        match &mut self.to {
            To::Stdout { stdout, .. } => stdout.flush_when_writable().await,
            To::Sinks { delivery, .. } => {
                delivery.moved().await;
                Ok(())
            }
        }
    }

    /// Waits until something was written that did not fit before, or sinks have lost records.
    pub(super) async fn next(&mut self) -> io::Result<Vec<SinkLoss>> {
        match &mut self.to {
            To::Stdout { stdout, .. } if stdout.is_idle() => std::future::pending().await,
            To::Stdout { stdout, .. } => {
                stdout.flush_when_writable().await?;
                Ok(Vec::new())
            }
            To::Sinks { delivery, .. } => tokio::select! {
                () = delivery.moved(), if !delivery.has_room() => Ok(Vec::new()),
                lost = delivery.lost() => Ok(lost),
            },
        }
    }

    /// What sinks have lost.
    pub(super) fn take_lost(&self) -> Vec<SinkLoss> {
        match &self.to {
            To::Stdout { .. } => Vec::new(),
            To::Sinks { delivery, .. } => delivery.take_lost(),
        }
    }

    pub(super) fn status(&self) -> Option<Vec<SinkStatus>> {
        match &self.to {
            To::Stdout { .. } => None,
            To::Sinks { delivery, .. } => Some(delivery.sinks().status()),
        }
    }

    /// Whether it has a file that can be read again.
    pub(super) const fn can_reload(&self) -> bool {
        matches!(self.to, To::Sinks { .. })
    }

    /// Reads the configuration again. If it is wrong, all stays as it is.
    pub(super) fn reload(&mut self) {
        let To::Sinks {
            delivery,
            path,
            config,
            metrics: _,
        } = &mut self.to
        else {
            return;
        };
        let new = match Config::load(path) {
            Ok(new) => new,
            Err(error) => {
                tracing::error!("not reloaded: {error}");
                return;
            }
        };
        if new.agent.tracer != config.agent.tracer {
            tracing::warn!("what has changed in [tracer] takes a restart");
        }
        if new.agent.metrics != config.agent.metrics {
            tracing::warn!("what has changed in [metrics] takes a restart");
        }
        #[cfg(feature = "kubernetes")]
        if new.agent.pods != config.agent.pods {
            tracing::warn!("what has changed in [pods] takes a restart");
        }
        delivery.reload(new.sinks.clone());
        let sinks = count(new.sinks.len() as u64, "sink");
        tracing::info!("reloaded {}: {sinks}", path.display());
        config.sinks = new.sinks;
    }

    /// Waits a while until all is where it should be.
    pub(super) fn close(self, patience: Duration) -> Result<()> {
        match self.to {
            To::Stdout { stdout, .. } if stdout.is_idle() => Ok(()),
            To::Stdout { stdout, .. } => bail!(
                "standard output: nobody reads it; {} bytes of records could not be written \
                 within {} s",
                stdout.waiting(),
                patience.as_secs(),
            ),
            To::Sinks { delivery, .. } => {
                let sinks = delivery.sinks().status().into_iter();
                let fail = sinks.filter(|sink| sink.waiting > 0 && sink.error.is_some());
                let fail: Vec<_> = fail.map(|sink| sink.name).collect();
                if !fail.is_empty() {
                    let (seconds, names) = (patience.as_secs(), fail.join(", "));
                    tracing::info!("stopping within {seconds} s, the time that is left to {names}");
                }
                let mut lost = false;
                for left in delivery.close(Some(patience)) {
                    lost |= !left.spooled;
                    tracing::warn!("{left}");
                }
                if lost {
                    bail!("some records could not be delivered, and are on no disk");
                }
                Ok(())
            }
        }
    }
}

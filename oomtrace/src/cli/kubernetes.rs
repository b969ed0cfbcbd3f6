//! The flags that tell where pods are known from.

#[cfg(feature = "kubernetes")]
pub(super) use with::Args;
#[cfg(not(feature = "kubernetes"))]
pub(super) use without::Args;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::kubernetes::Kubernetes;

/// How long sources of pods may take for a verb that looks once.
const PATIENCE: Duration = Duration::from_secs(3);

impl Args {
    /// Starts the sources, and gives them a while to answer.
    pub(super) fn settled(&self) -> Result<Option<Kubernetes>> {
        let Some(options) = self.options(PATIENCE) else {
            return Ok(None);
        };
        let sources = Kubernetes::start(options).context("starting the sources of pods")?;
        if let Some(sources) = &sources {
            sources.settle(PATIENCE);
        }
        Ok(sources)
    }
}

#[cfg(feature = "kubernetes")]
mod with {
    use std::{path::PathBuf, time::Duration};

    use clap::ValueEnum;

    use crate::kubernetes::Options;

    /// How often a source is asked that does not tell of changes, where there is no heartbeat.
    const PERIOD: Duration = Duration::from_secs(60);

    /// Whether sources are looked for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
    enum Find {
        /// Where they usually are.
        Auto,
        /// Not at all, and none is used.
        Off,
    }

    #[derive(Debug, clap::Args)]
    #[command(next_help_heading = "Pods")]
    #[group(id = "pods")]
    pub(in crate::cli) struct Args {
        /// Name pods by what is found on this node: the container runtime's socket, OCI bundles,
        /// /var/log/pods and, inside of a pod, the API server
        #[arg(long, value_enum, default_value_t = Find::Auto)]
        k8s: Find,

        /// Ask the container runtime at this socket
        #[arg(long, value_name = "PATH")]
        cri: Option<PathBuf>,

        /// Ask the kubelet: https://HOST:10250
        #[arg(long, value_name = "URL")]
        kubelet: Option<String>,

        /// Ask the API server that this file names, and take credentials from it
        #[arg(long, value_name = "FILE")]
        kubeconfig: Option<PathBuf>,

        /// This node's name in the API [default: the environment's NODE_NAME]
        #[arg(long, value_name = "NAME")]
        node_name: Option<String>,

        /// Labels of pods that events may show, comma-separated
        #[arg(long, value_name = "LIST", value_delimiter = ',')]
        pod_labels: Vec<String>,
    }

    impl Args {
        /// This node's name in Kubernetes.
        pub(in crate::cli) fn node_name(&self) -> Option<String> {
            let from_environment = || std::env::var("NODE_NAME").ok();
            let name = self.node_name.clone().or_else(from_environment)?;
            Some(name).filter(|name| !name.is_empty())
        }

        /// Which sources to use; `heartbeat` is how often records are written anyway.
        pub(in crate::cli) fn options(&self, heartbeat: Duration) -> Option<Options> {
            (self.k8s == Find::Auto).then(|| Options {
                find: true,
                cri: self.cri.clone(),
                kubelet: self.kubelet.clone(),
                kubeconfig: self.kubeconfig.clone(),
                node_name: self.node_name(),
                labels: self.pod_labels.clone(),
                period: heartbeat.max(PERIOD),
            })
        }
    }
}

#[cfg(not(feature = "kubernetes"))]
mod without {
    use std::time::Duration;

    use crate::kubernetes::Options;

    #[derive(Debug, clap::Args)]
    #[group(id = "pods")]
    pub(in crate::cli) struct Args {}

    impl Args {
        pub(in crate::cli) const fn node_name(&self) -> Option<String> {
            None
        }

        pub(in crate::cli) const fn options(&self, _: Duration) -> Option<Options> {
            None
        }
    }
}

//! The sources: each a task that feeds the cache for as long as the program runs, and says how it
//! is doing.

mod api;
mod bundle;
mod config;
mod cri;
mod kubelet;
mod pod_logs;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use self::{api::Api, bundle::Bundles, config::Cluster, cri::Cri};
use super::{
    Options, Pods, ask,
    facts::{Source, is_name},
};
use crate::{
    backoff::Backoff,
    http::{self, Server},
    incident::{Known, News, Question},
    tls,
};

/// What is to be started.
#[derive(Debug)]
pub struct Plan {
    api: Option<(Server, String)>,
    kubelet: Option<Server>,
    cri: Option<PathBuf>,
    pod_logs: Option<PathBuf>,
    labels: Arc<[String]>,
    period: Duration,
}

/// The sources that answer at once when they are asked.
#[derive(Debug, Default)]
pub struct Quick {
    cri: Option<Cri>,
    bundles: Option<Bundles>,
}

impl Plan {
    /// What the options name, and what is found.
    pub fn of(options: Options, pods: &Pods) -> Self {
        let found = || {
            let mut sockets = cri::SOCKETS.iter().map(PathBuf::from);
            sockets.find(|socket| socket.exists())
        };
        let cri = options.cri.or_else(|| options.find.then(found).flatten());
        let pod_logs = options
            .find
            .then(|| PathBuf::from(pod_logs::FOLDER))
            .filter(|folder| folder.exists());
        if let Some(socket) = &cri {
            pods.found(Source::Cri, socket.display().to_string());
            if let Some(bundles) = Bundles::of_socket(socket).filter(Bundles::are_here) {
                pods.found(Source::Bundle, bundles.root.display().to_string());
            }
        }
        if let Some(folder) = &pod_logs {
            pods.found(Source::PodLogs, folder.display().to_string());
        }
        let cluster = match &options.kubeconfig {
            Some(file) => Some(Cluster::of_file(file)),
            None => options.find.then(Cluster::of_this_pod).flatten().map(Ok),
        };
        let kubelet = options.kubelet.and_then(|address| {
            pods.found(Source::Kubelet, address.clone());
            // The kubelet takes the token that the API server takes, and has it checked there.
            let credentials = match &cluster {
                Some(Ok(cluster)) => cluster.credentials.clone(),
                _ => Default::default(),
            };
            Server::new(&address, credentials)
                .inspect_err(|error| pods.failed(Source::Kubelet, &error.to_string()))
                .ok()
        });
        let api = cluster.and_then(|cluster| {
            let address = cluster.as_ref().map(|cluster| cluster.address.clone());
            pods.found(Source::Api, address.unwrap_or_default());
            api(cluster, options.node_name)
                .inspect_err(|error| pods.failed(Source::Api, error))
                .ok()
        });
        Self {
            api,
            kubelet,
            cri,
            pod_logs,
            labels: options.labels.into(),
            period: options.period,
        }
    }

    /// Runs the sources until nobody asks any more.
    pub async fn run(
        self,
        pods: Arc<Pods>,
        questions: mpsc::Receiver<Arc<Question>>,
        answers: mpsc::Sender<News>,
    ) {
        let mut quick = Quick::default();
        if let Some(socket) = &self.cri {
            match Cri::new(socket, Arc::clone(&self.labels)) {
                Ok(cri) => quick.cri = Some(cri),
                Err(error) => pods.failed(Source::Cri, &error),
            }
            quick.bundles = Bundles::of_socket(socket).filter(Bundles::are_here);
        }
        let quick = Arc::new(quick);
        if let Some(cri) = quick.cri.clone() {
            tokio::spawn(cri.run(Arc::clone(&pods), self.period));
        }
        if let Some(bundles) = quick.bundles.clone() {
            tokio::spawn(bundles.run(Arc::clone(&pods), Arc::clone(&quick)));
        }
        if let Some(server) = self.kubelet {
            let (pods, labels) = (Arc::clone(&pods), Arc::clone(&self.labels));
            tokio::spawn(kubelet::run(server, pods, labels, self.period));
        }
        tokio::spawn(evictions(
            Arc::clone(&pods),
            self.api.clone(),
            answers.clone(),
        ));
        if let Some((server, node)) = self.api {
            let (pods, labels) = (Arc::clone(&pods), Arc::clone(&self.labels));
            tokio::spawn(Api::new(server, node, labels, pods).run());
        }
        if let Some(folder) = self.pod_logs {
            tokio::spawn(pod_logs::run(folder, Arc::clone(&pods)));
        }
        ask::answer(pods, quick, questions, answers).await;
    }
}

/// Tells of evictions for ever, with the node's conditions where they may be asked for.
async fn evictions(pods: Arc<Pods>, api: Option<(Server, String)>, news: mpsc::Sender<News>) {
    loop {
        pods.any_evicted().await;
        let node_conditions = match &api {
            Some((server, node)) => api::node_conditions(server, node).await,
            None => None,
        };
        let Ok(permit) = news.reserve().await else {
            return;
        };
        // Held until it is sent: a tracer that stops finds it either here or there.
        let mut waiting = pods.evicted();
        if let Some(evicted) = pods.first_evicted(&mut waiting, node_conditions) {
            permit.send(evicted);
        }
    }
}

/// The API server, and this node's name in it.
fn api(
    cluster: Result<Cluster, tls::Error>,
    node: Option<String>,
) -> Result<(Server, String), String> {
    let Cluster {
        address,
        credentials,
    } = cluster.map_err(|error| error.to_string())?;
    let node = node.filter(|node| is_name(node)).ok_or(
        "this node's name is not known: give --node-name, or NODE_NAME by the downward API \
         (spec.nodeName)",
    )?;
    let server = Server::new(&address, credentials).map_err(|error| error.to_string())?;
    Ok((server, node))
}

impl Quick {
    /// Asks about what is not known in full.
    pub async fn ask(&self, pods: &Pods, known: &Known) {
        match (&known.whose.container, &known.whose.pod) {
            (Some(container), _) => {
                if let Some(bundles) = &self.bundles {
                    bundles.read(pods, &container.id);
                }
                self.ask_runtime(pods, &container.id).await;
            }
            (None, Some(pod)) => {
                if let Some(cri) = &self.cri {
                    cri.ask_pod(pods, &pod.uid).await;
                }
            }
            (None, None) => {}
        }
    }

    /// Asks the runtime about a container.
    pub async fn ask_runtime(&self, pods: &Pods, id: &str) {
        if let Some(cri) = &self.cri {
            cri.ask_container(pods, id).await;
        }
    }
}

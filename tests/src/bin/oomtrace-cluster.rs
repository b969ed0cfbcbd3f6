//! An API server for a node in a virtual machine: tells where it listens and where its certificates
//! are, and ends when its input does.

use std::io::Read;

use anyhow::Result;
use oomtrace_tests::kubernetes::cluster::Cluster;

fn main() -> Result<()> {
    let cluster = Cluster::start()?;
    let folder = cluster.folder();
    println!(
        "{}",
        serde_json::json!({"port": cluster.port, "folder": folder})
    );
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

//! An API server for a node in a virtual machine: tells where it listens and where its certificates
//! are, and the rendered chart, and ends when its input does.

use std::{fs, io::Read};

use anyhow::Result;
use oomtrace_tests::kubernetes::{chart, cluster::Cluster};

fn main() -> Result<()> {
    let cluster = Cluster::start()?;
    let folder = cluster.folder();
    let chart = chart::render(&chart::values_of_the_node())?;
    fs::write(folder.join("chart.json"), serde_json::to_vec(&chart)?)?;
    println!(
        "{}",
        serde_json::json!({"port": cluster.port, "folder": folder})
    );
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

//! `cargo xtask licences`: every dependency may be used under a licence that suits
//! `MIT OR Apache-2.0`.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::sh;

/// SPDX names of the licences that suit.
const SUITABLE: [&str; 10] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Checks them; names those that do not suit.
pub fn run() -> Result<()> {
    let metadata = sh::output(sh::cargo().args([
        "metadata",
        "--all-features",
        "--locked",
        "--format-version",
        "1",
        "--quiet",
    ]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("reading cargo metadata")?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata has no packages")?;
    let unsuitable: Vec<String> = packages
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(suits))
        .map(|package| {
            format!(
                "{} {} ({})",
                package["name"], package["version"], package["license"]
            )
        })
        .collect();
    ensure!(
        unsuitable.is_empty(),
        "licences that do not suit: {}",
        unsuitable.join(", ")
    );
    println!("{} packages, all under suitable licences", packages.len());
    Ok(())
}

/// Whether an SPDX expression of ANDs of ORs, or ORs of single names, can be met. Crates use no
/// others; one that does is refused, and looked at.
fn suits(expression: &str) -> bool {
    // The old way to write OR.
    let expression = expression.replace('/', " OR ");
    expression.split(" AND ").all(|part| {
        part.trim()
            .trim_matches(['(', ')'])
            .split(" OR ")
            .any(|licence| SUITABLE.contains(&licence.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::suits;

    /// A choice suits when one of it does, a conjunction when all do.
    #[test]
    fn expressions() {
        assert!(suits("MIT OR GPL-3.0-only"));
        assert!(suits("MIT/Apache-2.0"));
        assert!(suits("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(!suits("GPL-3.0-only"));
        assert!(!suits("MIT AND GPL-3.0-only"));
        assert!(!suits(""));
    }
}

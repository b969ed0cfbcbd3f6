//! Packages of other Debian suites and architectures, through the mirror that the machine's own
//! apt uses, without touching the machine's own package lists.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::sh;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where programs and libraries were before they were all below `/usr`; some packages still say so.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// apt with folders and sources of its own.
pub struct Apt {
    options: Vec<String>,
    /// Where it leaves what it downloads.
    archives: PathBuf,
}

impl Apt {
    /// Reads the package lists of `suites` into `folder`. apt checks their signatures.
    pub fn new(folder: &Path, architecture: &str, suites: &[&str]) -> Result<Self> {
        ensure!(
            sh::find("apt-get").is_some() && Path::new(KEYRING).exists(),
            "this takes apt and {KEYRING} (package debian-archive-keyring)"
        );
        let folder = folder.join(format!("{}-{architecture}", suites.join("-")));
        let mirrors = Mirrors::of_this_machine()?;
        let sources: String = suites
            .iter()
            .map(|suite| {
                let mirror = mirrors.of(suite)?;
                Ok(format!(
                    "deb [signed-by={KEYRING} target=Packages] {mirror} {suite} main\n"
                ))
            })
            .collect::<Result<_>>()?;
        Self::over(&folder, architecture, &sources)
    }

    /// Reads the lists of a suite's source packages into `folder`.
    pub fn of_sources(folder: &Path, suite: &str) -> Result<Self> {
        let mirrors = Mirrors::of_this_machine()?;
        let sources = format!(
            "deb-src [signed-by={KEYRING} target=Sources] {} {suite} main\n",
            mirrors.of(suite)?
        );
        Self::over(&folder.join(format!("{suite}-src")), "amd64", &sources)
    }

    fn over(folder: &Path, architecture: &str, sources: &str) -> Result<Self> {
        let cache = folder.join("cache");
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::create_dir_all(cache.join("archives/partial"))?;
        let list = folder.join("sources.list");
        fs::write(&list, sources)?;
        let apt = Self {
            options: [
                format!("Dir::Etc::sourcelist={}", list.display()),
                "Dir::Etc::sourceparts=-".to_owned(),
                format!("Dir::State::Lists={}", folder.join("lists").display()),
                "Dir::State::status=/dev/null".to_owned(),
                format!("Dir::Cache={}", cache.display()),
                format!("APT::Architecture={architecture}"),
                format!("APT::Architectures={architecture}"),
                // Its unprivileged user cannot write into a checkout.
                "APT::Sandbox::User=root".to_owned(),
                "Acquire::Languages=none".to_owned(),
                "Acquire::Retries=3".to_owned(),
            ]
            .into_iter()
            .flat_map(|option| ["-o".to_owned(), option])
            .collect(),
            archives: cache.join("archives"),
        };
        sh::output(
            apt.command("apt-get")
                .args(["-qq", "update", "--error-on=any"]),
        )?;
        Ok(apt)
    }

    /// Downloads a source package and unpacks it, patched, as `folder`.
    pub fn unpack_source(&self, package: &str, folder: &Path) -> Result<()> {
        let above = folder.with_extension("download");
        let _ = fs::remove_dir_all(&above);
        fs::create_dir_all(&above)?;
        sh::output(
            self.command("apt-get")
                .args(["-qq", "source", "--download-only", package])
                .current_dir(&above),
        )?;
        let mut entries = fs::read_dir(&above)?.filter_map(|entry| Some(entry.ok()?.path()));
        let dsc = entries
            .find(|path| path.extension().is_some_and(|extension| extension == "dsc"))
            .with_context(|| format!("apt-get source {package} left no .dsc"))?;
        sh::output(
            Command::new("dpkg-source")
                .args(["--no-check", "-x"])
                .args([&dsc, folder]),
        )?;
        Ok(fs::remove_dir_all(&above)?)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// Names of packages that match an extended regular expression.
    pub fn search(&self, pattern: &str) -> Result<Vec<String>> {
        let found =
            sh::output(
                self.command("apt-cache")
                    .args(["search", "--names-only", pattern]),
            )?;
        Ok(found
            .lines()
            .filter_map(|line| Some(line.split_once(' ')?.0.to_owned()))
            .collect())
    }

    /// Downloads a package into `folder`, which it makes anew; returns the file.
    pub fn download(&self, package: &str, folder: &Path) -> Result<PathBuf> {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder)?;
        sh::output(
            self.command("apt-get")
                .args(["-qq", "download", package])
                .current_dir(folder),
        )?;
        debs(folder)?
            .pop()
            .with_context(|| format!("apt-get download {package} left no package"))
    }

    /// Downloads a package and unpacks it into `folder`, which it makes anew.
    pub fn unpack(&self, package: &str, folder: &Path) -> Result<()> {
        let deb = self.download(package, folder)?;
        sh::run(Command::new("dpkg-deb").arg("-x").args([&deb, folder]))?;
        Ok(fs::remove_file(&deb)?)
    }

    /// Downloads packages and all they depend on; returns the files.
    pub fn download_all(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        sh::output(self.command("apt-get").arg("clean"))?;
        sh::output(
            self.command("apt-get")
                .args(["-qq", "-y", "--no-install-recommends", "--download-only"])
                .arg("install")
                .args(packages),
        )?;
        debs(&self.archives)
    }
}

/// Unpacks packages together into `root`, for a machine of its own, without installing them.
pub fn extract(packages: &[PathBuf], root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("dev"))?;
    for name in MERGED {
        fs::create_dir_all(root.join("usr").join(name))?;
        symlink(format!("usr/{name}"), root.join(name))?;
    }
    for package in packages {
        let mut archive = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(package)
            .stdout(Stdio::piped())
            .spawn()
            .context("starting dpkg-deb")?;
        let output = archive.stdout.take().context("dpkg-deb has no output")?;
        sh::run(
            Command::new("tar")
                .args([
                    "-x",
                    "--keep-directory-symlink",
                    "--exclude=./usr/share/doc",
                    "-C",
                ])
                .arg(root)
                .stdin(output),
        )?;
        archive.wait()?;
    }
    Ok(())
}

/// The packages in a folder.
fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect())
}

/// Where this machine gets Debian from.
struct Mirrors {
    archive: String,
    security: Option<String>,
}

impl Mirrors {
    fn of_this_machine() -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .unwrap_or_default()
            .trim_matches('"');
        let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
        if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
            files.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        }
        let mut sources = Vec::new();
        for file in files {
            let Ok(text) = fs::read_to_string(&file) else {
                continue;
            };
            let extension = file.extension().and_then(|extension| extension.to_str());
            sources.extend(match extension {
                Some("list") => one_line(&text),
                Some("sources") => deb822(&text),
                _ => Vec::new(),
            });
        }
        let mirror = |suffix: &str| {
            let suite = format!("{codename}{suffix}");
            let source = sources
                .iter()
                .find(|source| source.suites.contains(&suite))?;
            Some(source.uri.clone())
        };
        Ok(Self {
            // Others than Debian name their suites after Debian's releases, but have no updates.
            archive: mirror("-updates").or_else(|| mirror("")).with_context(|| {
                format!("apt's sources name no Debian mirror (no suite `{codename}`)")
            })?,
            security: mirror("-security"),
        })
    }

    fn of(&self, suite: &str) -> Result<&str> {
        if !suite.ends_with("-security") {
            return Ok(&self.archive);
        }
        self.security
            .as_deref()
            .with_context(|| format!("apt's sources name no mirror that has {suite}"))
    }
}

/// A place that apt gets packages from.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suites: Vec<String>,
}

/// Reads `deb [options] URI SUITE COMPONENT…` lines.
fn one_line(text: &str) -> Vec<Source> {
    text.lines()
        .filter_map(|line| {
            let line = line
                .split('#')
                .next()?
                .trim()
                .strip_prefix("deb ")?
                .trim_start();
            let line = line
                .strip_prefix('[')
                .map_or(Some(line), |rest| Some(rest.split_once(']')?.1))?;
            let mut words = line.split_whitespace();
            let (uri, suite) = (words.next()?, words.next()?);
            words.any(|component| component == "main").then(|| Source {
                uri: uri.to_owned(),
                suites: vec![suite.to_owned()],
            })
        })
        .collect()
}

/// Reads the stanzas of a `.sources` file (deb822); a field may go on in lines that are indented.
fn deb822(text: &str) -> Vec<Source> {
    let text: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    text.split(|line| line.trim().is_empty())
        .filter_map(|stanza| {
            let field = |name: &str| {
                let mut lines = stanza.iter().skip_while(|line| {
                    !line
                        .split_once(':')
                        .is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
                });
                let mut words: Vec<&str> = lines
                    .next()?
                    .split_once(':')?
                    .1
                    .split_whitespace()
                    .collect();
                words.extend(
                    lines
                        .take_while(|line| line.starts_with([' ', '\t']))
                        .flat_map(|line| line.split_whitespace()),
                );
                Some(words)
            };
            let enabled = field("Enabled").is_none_or(|value| value != ["no"]);
            let fits = enabled
                && field("Types")?.contains(&"deb")
                && field("Components")?.contains(&"main");
            fits.then(|| {
                Some(Source {
                    uri: (*field("URIs")?.first()?).to_owned(),
                    suites: field("Suites")?.into_iter().map(str::to_owned).collect(),
                })
            })?
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both formats of apt's sources, with comments and options, tell the same.
    #[test]
    fn sources_in_both_formats() {
        let lines = "# deb http://old.example/debian bookworm main\n\
            deb [arch=amd64 signed-by=/k] http://m.example/debian bookworm main contrib # here\n\
            deb-src http://m.example/debian bookworm main\n\
            deb http://other.example/ bookworm stable\n";
        let stanzas = "Types: deb deb-src\n# a comment\nURIs: http://m.example/debian\n\
            Suites: bookworm\n bookworm-updates\nComponents: main\nSigned-By: /k\n\n\
            Enabled: no\nTypes: deb\nURIs: http://x.example\nSuites: bookworm\nComponents: main\n";
        let source = |suites: &[&str]| Source {
            uri: "http://m.example/debian".to_owned(),
            suites: suites.iter().map(|suite| (*suite).to_owned()).collect(),
        };
        assert_eq!(one_line(lines), [source(&["bookworm"])]);
        assert_eq!(deb822(stanzas), [source(&["bookworm", "bookworm-updates"])]);
    }
}

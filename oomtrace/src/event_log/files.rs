//! Which files are meant, and in which order: rotated sets, oldest first.

use std::{
    cmp::Reverse,
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

/// What the names of event logs have in them.
const ENDING: &str = ".jsonl";

/// The files that `names` mean: files, directories of event logs, patterns with `*` and `?`. The
/// files of a rotated set stand together, oldest first, where the first of them was named.
///
/// # Errors
/// A directory that cannot be read; a pattern or a directory without a file.
pub fn expand(names: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for name in names {
        if name.is_dir() {
            let wanted = |file: &str| file.contains(ENDING);
            files.extend(folder(name, wanted)?);
        } else if let Some(pattern) = pattern(name) {
            let parent = name.parent().filter(|parent| *parent != Path::new(""));
            let parent = parent.unwrap_or(Path::new("."));
            files.extend(folder(parent, |file| like(pattern, file))?);
        } else {
            files.push(name.clone());
        }
    }
    let mut places = HashMap::new();
    let mut keyed: Vec<_> = files
        .into_iter()
        .map(|file| {
            let (base, age) = set(&file);
            let next = places.len();
            (*places.entry(base).or_insert(next), age, file)
        })
        .collect();
    keyed.sort();
    keyed.dedup();
    Ok(keyed.into_iter().map(|(_, _, file)| file).collect())
}

/// The file's name as a pattern, where it is one and not a file.
fn pattern(name: &Path) -> Option<&str> {
    let file = name.file_name()?.to_str()?;
    (file.contains(['*', '?']) && !name.exists()).then_some(file)
}

fn folder(folder: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if wanted(&name) && path.is_file() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "there is no event log in it",
        ));
    }
    files.sort();
    Ok(files)
}

/// Where a file stands in its set, oldest first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    /// `events.jsonl-20261121`
    Dated(String),
    /// `events.jsonl.3`
    Numbered(Reverse<u32>),
    /// `events.jsonl`: it is still written.
    Current,
}

/// The set that a file is of, and its place there.
fn set(file: &Path) -> (PathBuf, Age) {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let plain = [".gz", ".xz", ".zst"]
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(&name);
    let (base, rest) = match plain.rfind(ENDING) {
        Some(at) => plain.split_at(at + ENDING.len()),
        None => match plain.rsplit_once('.') {
            Some((base, number)) if number.parse::<u32>().is_ok() => (base, &plain[base.len()..]),
            _ => (plain, ""),
        },
    };
    let rest = rest.trim_start_matches(['.', '-', '_']);
    let age = match rest.parse::<u32>() {
        _ if rest.is_empty() => Age::Current,
        Ok(number) if rest.len() < 6 => Age::Numbered(Reverse(number)),
        _ => Age::Dated(rest.to_owned()),
    };
    (file.with_file_name(base), age)
}

/// Whether `text` is what `pattern` says: `*` is any text, `?` any character.
pub fn like(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // Where the last `*` is, and where what it stands for ends so far.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, end)) = star else { return false };
                star = Some((at, end + 1));
                (p, t) = (at + 1, end + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    /// Patterns are of the whole text.
    #[test]
    fn patterns() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("payments-*", "payments-api"),
            ("*api*", "payments-api-5d4f"),
            ("a?c*", "abc"),
            ("*a*b", "aabab"),
        ] {
            assert!(like(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("a", "ab"),
            ("*a", "ab"),
            ("a?", "a"),
            ("A", "a"),
        ] {
            assert!(!like(pattern, text), "{pattern} {text}");
        }
    }

    /// However a set is named, its oldest file comes first, and other files stay where they are.
    #[test]
    fn oldest_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let order = [
            "a.jsonl-20261119.zst",
            "a.jsonl-20261120",
            "a.jsonl.10.gz",
            "a.jsonl.2.gz",
            "a.jsonl.1",
            "a.jsonl",
        ];
        for name in order.iter().chain(&["notes.txt"]) {
            fs::write(path(name), "").unwrap();
        }
        let expected: Vec<_> = order.iter().map(|name| path(name)).collect();
        assert_eq!(expand(&[folder.path().to_owned()]).unwrap(), expected);
        assert_eq!(expand(&[path("a.jsonl*")]).unwrap(), expected);
        // As a shell lists them, and between others.
        let mut names = expected.clone();
        names.sort();
        names.insert(0, PathBuf::from("-"));
        names.push(path("z"));
        let all = expand(&names).unwrap();
        assert_eq!(all.first(), names.first());
        assert_eq!(all.last(), names.last());
        assert_eq!(all[1..all.len() - 1], expected);
        assert!(expand(&[path("b*")]).is_err());
    }
}

//! A file that grows.

use std::{
    fs::File,
    io::{self, Read, Seek},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// How long a reader sleeps that has nothing to read.
const PAUSE: Duration = Duration::from_millis(500);

/// Reads a file, and waits for more at its end. The end comes when the file was truncated, or when
/// another one has taken its name (rotation); then it is to be opened again.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    file: File,
}

impl Tail {
    /// The file from its beginning.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: File::open(path)?,
        })
    }

    /// Whether nothing more will come.
    fn is_over(&mut self) -> io::Result<bool> {
        let here = self.file.metadata()?;
        let truncated = here.len() < self.file.stream_position()?;
        // While nothing has the name, the file is between two rotations.
        let replaced = std::fs::metadata(&self.path)
            .is_ok_and(|there| (there.dev(), there.ino()) != (here.dev(), here.ino()));
        Ok(truncated || replaced)
    }
}

impl Read for Tail {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let over = self.is_over()?;
            // What was written before it was replaced is still read.
            let count = self.file.read(buffer)?;
            if count > 0 || over || buffer.is_empty() {
                return Ok(count);
            }
            thread::sleep(PAUSE);
        }
    }
}

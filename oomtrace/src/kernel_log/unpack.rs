//! A file's bytes to the text in them: gzip, xz and zstd by their first bytes, and UTF-16.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// What a decoder may hold: the window of `zstd --long=27`, and more than `xz -9` takes.
const WINDOW_MAX: u64 = 128 << 20;
const XZ_KIB_MAX: u32 = 256 << 10;

/// What logs are also kept in, and cannot be read here: how it begins, and what to do.
const UNREAD: [(&[u8], &str); 4] = [
    (
        b"LPKSHHRH",
        "the journal's own file: `journalctl --file FILE -k -o export` makes a log of it",
    ),
    (
        b"BZh",
        "packed by bzip2, which is not read: unpack it first",
    ),
    (
        b"\x04\x22\x4d\x18",
        "packed by lz4, which is not read: unpack it first",
    ),
    (
        b"PK\x03\x04",
        "a zip archive, which is not read: unpack it first",
    ),
];

/// The text of `input`, unpacked if it is packed.
///
/// # Errors
/// Those of `input`. What is wrong with an archive comes out when it is read.
pub fn unpack<'a>(input: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut input = BufReader::with_capacity(64 << 10, input);
    let first = fill(&mut input, 8)?;
    if let Some((_, what)) = UNREAD.iter().find(|(mark, _)| first.starts_with(mark)) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, *what));
    }
    let unpacked: Box<dyn Read + Send + 'a> = if first.starts_with(b"\x1f\x8b") {
        Box::new(MultiGzDecoder::new(input))
    } else if first.starts_with(b"\xfd7zXZ\0") {
        Box::new(XzReader::new_mem_limit(input, true, XZ_KIB_MAX))
    } else if first.starts_with(b"\x28\xb5\x2f\xfd") {
        Box::new(Zstd { input, frame: None })
    } else {
        return text(input);
    };
    text(BufReader::with_capacity(64 << 10, unpacked))
}

/// What comes first, at least `count` bytes of it unless it is shorter. Where the reader hands out its
/// first bytes one by one, fewer: it is no file then.
fn fill<R: Read>(input: &mut BufReader<R>, count: usize) -> io::Result<&[u8]> {
    if input.buffer().is_empty() {
        retried(|| input.fill_buf().map(drop))?;
    }
    let front = input.buffer();
    Ok(&front[..front.len().min(count)])
}

fn retried(mut f: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match f() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Without its byte order mark, and UTF-16 as UTF-8.
fn text<'a, R: Read + Send + 'a>(mut input: BufReader<R>) -> io::Result<Box<dyn Read + Send + 'a>> {
    let first = fill(&mut input, 3)?;
    let (mark, big_endian) = if first.starts_with(b"\xff\xfe") {
        (2, Some(false))
    } else if first.starts_with(b"\xfe\xff") {
        (2, Some(true))
    } else if first.starts_with(b"\xef\xbb\xbf") {
        (3, None)
    } else {
        (0, None)
    };
    input.consume(mark);
    Ok(match big_endian {
        Some(big_endian) => Box::new(Utf16 {
            input,
            big_endian,
            odd: None,
            high: None,
            out: Vec::new(),
            at: 0,
        }),
        None => Box::new(input),
    })
}

/// zstd frames, one behind the other.
struct Zstd<R> {
    input: R,
    frame: Option<FrameDecoder>,
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                while frame.can_collect() == 0 && !frame.is_finished() {
                    frame
                        .decode_blocks(&mut self.input, BlockDecodingStrategy::UptoBlocks(1))
                        .map_err(io::Error::other)?;
                }
                let count = frame.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
            }
            // There may be another frame.
            if self.input.fill_buf()?.is_empty() {
                return Ok(0);
            }
            let mut frame = FrameDecoder::new();
            frame.set_max_window_size(WINDOW_MAX);
            frame.init(&mut self.input).map_err(io::Error::other)?;
            self.frame = Some(frame);
        }
    }
}

/// UTF-16 as UTF-8. What is no character becomes U+FFFD.
struct Utf16<R> {
    input: R,
    big_endian: bool,
    /// The first byte of a unit.
    odd: Option<u8>,
    /// The first unit of a pair.
    high: Option<u16>,
    out: Vec<u8>,
    at: usize,
}

impl<R: BufRead> Utf16<R> {
    fn more(&mut self) -> io::Result<()> {
        self.out.clear();
        self.at = 0;
        let bytes = self.input.fill_buf()?;
        let taken = bytes.len();
        let units = self.odd.take().into_iter().chain(bytes.iter().copied());
        let mut units = units.peekable();
        let mut push = |text: char| {
            let mut utf8 = [0; 4];
            self.out
                .extend_from_slice(text.encode_utf8(&mut utf8).as_bytes());
        };
        while let Some(first) = units.next() {
            let Some(second) = units.next() else {
                if taken > 0 {
                    self.odd = Some(first);
                } else {
                    push(char::REPLACEMENT_CHARACTER);
                }
                break;
            };
            let unit = if self.big_endian {
                u16::from_be_bytes([first, second])
            } else {
                u16::from_le_bytes([first, second])
            };
            let pair = self.high.take().into_iter().chain([unit]);
            for text in char::decode_utf16(pair) {
                match text {
                    Ok(text) => push(text),
                    Err(e)
                        if matches!(e.unpaired_surrogate(), 0xd800..=0xdbff)
                            && e.unpaired_surrogate() == unit =>
                    {
                        self.high = Some(unit);
                    }
                    Err(_) => push(char::REPLACEMENT_CHARACTER),
                }
            }
        }
        self.input.consume(taken);
        if taken == 0 && self.high.take().is_some() {
            let mut utf8 = [0; 4];
            let text = char::REPLACEMENT_CHARACTER.encode_utf8(&mut utf8);
            self.out.extend_from_slice(text.as_bytes());
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Utf16<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.out.len() {
            if self.input.fill_buf()?.is_empty() && self.odd.is_none() && self.high.is_none() {
                return Ok(0);
            }
            self.more()?;
        }
        let ready = &self.out[self.at..];
        let count = ready.len().min(buffer.len());
        buffer[..count].copy_from_slice(&ready[..count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands out one byte at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(buffer.len()).min(1);
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn read(bytes: &[u8]) -> String {
        let mut text = Vec::new();
        unpack(bytes).unwrap().read_to_end(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    /// UTF-16 of both orders, pairs and what is none, whole and in pieces; a UTF-8 mark goes away.
    #[test]
    fn utf16() {
        let text = "a\u{10ffff}ß\n";
        for big_endian in [false, true] {
            let mut units = vec![0xfeff];
            units.extend(text.encode_utf16());
            units.extend([0xd800, u16::from(b'x'), 0xdc00]);
            let bytes: Vec<u8> = units
                .iter()
                .flat_map(|unit| {
                    if big_endian {
                        unit.to_be_bytes()
                    } else {
                        unit.to_le_bytes()
                    }
                })
                .collect();
            let expected = format!("{text}\u{fffd}x\u{fffd}");
            assert_eq!(read(&bytes), expected);
            let mut slow = Vec::new();
            let mark = bytes[..2].chain(Slow(&bytes[2..]));
            self::text(BufReader::new(mark))
                .unwrap()
                .read_to_end(&mut slow)
                .unwrap();
            assert_eq!(slow, expected.as_bytes());
            assert_eq!(
                read(&bytes[..bytes.len() - 1]),
                format!("{text}\u{fffd}x\u{fffd}")
            );
        }
        assert_eq!(read(b"\xef\xbb\xbfx"), "x");
        assert_eq!(read(b""), "");
    }

    /// Two zstd frames and two gzip members are one text; half an archive is an error.
    #[test]
    fn archives() {
        use std::io::Write as _;
        // `printf 'hello\n' | zstd`, in its simplest form: a frame of one raw block.
        let zstd = b"\x28\xb5\x2f\xfd\x20\x06\x31\x00\x00hello\n";
        let gzip = {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(b"hello\n").unwrap();
            packer.finish().unwrap()
        };
        for packed in [&zstd[..], &gzip] {
            assert_eq!(read(&[packed, packed].concat()), "hello\nhello\n");
            let half = &packed[..packed.len() - 4];
            let mut text = Vec::new();
            let result = unpack(half).and_then(|mut input| input.read_to_end(&mut text));
            assert!(result.is_err());
        }
    }
}

//! Zstandard files as they occur: any number of frames one after the other (as after `cat a.zst b.zst` or from pzstd), with
//! skippable frames between them, each frame's checksum compared.

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self, BufRead, Read};

/// What a frame may ask the decoder to remember, as the zstd tool bounds it without `--long`: a frame gives out nothing before it has
/// decompressed so much, so that this is memory whatever the reader does with it.
const MOST_WINDOW: u64 = 128 << 20;
const FRAME: u32 = 0xFD2F_B528;
/// The first of sixteen magic numbers of frames that are passed over.
const SKIPPABLE: u32 = 0x184D_2A50;

/// Reads the decompressed bytes of `source`.
pub(super) struct ZstdReader<R> {
    source: R,
    decoder: FrameDecoder,
    /// Whether `decoder` is inside a frame.
    in_frame: bool,
}

impl<R: BufRead> ZstdReader<R> {
    pub(super) fn new(source: R) -> Self {
        ZstdReader { source, decoder: FrameDecoder::new(), in_frame: false }
    }

    /// Goes to the next frame with content; false at the end of the file.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            let magic = u32::from_le_bytes(array(&mut self.source)?);
            if magic & !0xF == SKIPPABLE {
                let length = u32::from_le_bytes(array(&mut self.source)?);
                io::copy(&mut self.source.by_ref().take(length.into()), &mut io::sink())?;
                continue;
            }
            if magic != FRAME {
                return Err(io::Error::other("this is no zstd frame"));
            }
            let header = header(&mut self.source)?;
            self.decoder = FrameDecoder::new();
            self.decoder.init(header.as_slice()).map_err(io::Error::other)?;
            self.in_frame = true;
            return Ok(true);
        }
        Ok(false)
    }

    fn end_frame(&mut self) -> io::Result<()> {
        self.in_frame = false;
        match self.decoder.get_checksum_from_data() {
            Some(sum) if self.decoder.get_calculated_checksum() != Some(sum) => {
                Err(io::Error::other("the checksum of a zstd frame is wrong"))
            }
            _ => Ok(()),
        }
    }
}

/// A frame's header with its magic number (RFC 8878, section 3.1.1.1), once its window has been looked at.
fn header(source: &mut impl Read) -> io::Result<Vec<u8>> {
    let [descriptor] = array(source)?;
    let single = descriptor & 0x20 != 0;
    let window = u64::from(!single);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content = [u64::from(single), 2, 4, 8][usize::from(descriptor >> 6)];
    let mut header = [&FRAME.to_le_bytes()[..], &[descriptor]].concat();
    source.by_ref().take(window + dictionary + content).read_to_end(&mut header)?;
    let size = if single {
        let bytes = header.get(5 + dictionary as usize..).unwrap_or_default();
        bytes.iter().rev().fold(0, |size, &byte| size << 8 | u64::from(byte))
            + if bytes.len() == 2 { 256 } else { 0 }
    } else {
        let byte = u64::from(header.get(5).copied().unwrap_or(0));
        let base = 1 << (10 + (byte >> 3));
        base + base / 8 * (byte & 7)
    };
    if size > MOST_WINDOW {
        let problem = format!(
            "a frame asks for a window of {size} bytes, and {MOST_WINDOW} are the most that is decompressed"
        );
        return Err(io::Error::other(problem));
    }
    Ok(header)
}

fn array<const N: usize>(source: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while !buf.is_empty() && (self.in_frame || self.next_frame()?) {
            if !self.decoder.is_finished() && self.decoder.can_collect() == 0 {
                let step = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, step).map_err(io::Error::other)?;
            }
            match self.decoder.read(buf)? {
                0 if self.decoder.is_finished() => self.end_frame()?,
                0 => (),
                read => return Ok(read),
            }
        }
        Ok(0)
    }
}

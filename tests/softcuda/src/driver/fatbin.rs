//! The PTX inside an image: a fat binary as `nvcc -fatbin` writes it, or bare PTX text.
//!
//! A fat binary is a header (magic, version, header size, bytes that follow) and entries one after the other, each with its
//! own header: kind (1 PTX, 2 machine code), header size, payload bytes, and the architecture it is for. The layout is not
//! documented by NVIDIA; the fields below are the ones that all of nvcc 11 to 13 agree on.

use super::codes::{Api, Code};
use std::ffi::{CStr, c_char, c_void};

const MAGIC: u32 = 0xBA55_ED50;
/// What `cuModuleLoadFatBinary` and the runtime hand over: magic, version, pointer to the binary.
const WRAPPER: u32 = 0x4662_43B1;
const PTX: u16 = 1;
const ENTRY_HEADER: usize = 64;
const COMPRESSED: u64 = 0x2000 | 0x8000;

/// An entry's PTX and the architecture it needs (80 for sm_80).
#[derive(Debug, PartialEq, Eq)]
pub struct Ptx {
    pub text: String,
    pub arch: u32,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Api<u64> {
    let part = bytes.get(at..at + N).ok_or(Code::InvalidImage)?;
    Ok(part.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
}

/// The PTX of an image in memory.
///
/// # Safety
/// `image` must be what the driver's contract asks for: a fat binary with its header, or text that ends in NUL.
pub unsafe fn ptx_of_image(image: *const c_void) -> Api<Vec<Ptx>> {
    if image.is_null() {
        return Err(Code::InvalidValue);
    }
    // SAFETY: an image has at least four bytes.
    match unsafe { image.cast::<u32>().read_unaligned() } {
        // SAFETY: the header tells how many bytes follow.
        MAGIC => unsafe {
            let follows = image.byte_add(8).cast::<u64>().read_unaligned() as usize;
            let header = image.byte_add(6).cast::<u16>().read_unaligned() as usize;
            entries(std::slice::from_raw_parts(image.cast::<u8>(), header + follows))
        },
        // SAFETY: the wrapper's pointer to the fat binary stands at byte 8.
        WRAPPER => unsafe { ptx_of_image(image.byte_add(8).cast::<*const c_void>().read_unaligned()) },
        ELF => Err(Code::NoBinary),
        _ => {
            // SAFETY: text that ends in NUL.
            let text = unsafe { CStr::from_ptr(image.cast::<c_char>()) };
            let text = text.to_str().map_err(|_| Code::InvalidImage)?;
            if !text.contains(".version") {
                return Err(Code::InvalidImage);
            }
            Ok(vec![Ptx { text: text.into(), arch: target(text) }])
        }
    }
}

const ELF: u32 = u32::from_le_bytes(*b"\x7fELF");

/// All uncompressed PTX entries of a fat binary. An empty list where it holds machine code alone.
pub fn entries(binary: &[u8]) -> Api<Vec<Ptx>> {
    let mut at = number::<2>(binary, 6)? as usize;
    let mut found = Vec::new();
    while at < binary.len() {
        let kind = number::<2>(binary, at)? as u16;
        let header = number::<4>(binary, at + 4)? as usize;
        let bytes = number::<8>(binary, at + 8)? as usize;
        if header < ENTRY_HEADER || bytes > binary.len() {
            return Err(Code::InvalidImage);
        }
        let payload = binary.get(at + header..at + header + bytes).ok_or(Code::InvalidImage)?;
        if kind == PTX {
            if number::<8>(binary, at + 40)? & COMPRESSED != 0 {
                return Err(Code::NotSupported);
            }
            let text = std::str::from_utf8(payload).map_err(|_| Code::InvalidImage)?;
            let text = text.trim_end_matches('\0').to_string();
            found.push(Ptx { arch: number::<4>(binary, at + 28)? as u32, text });
        }
        at += header + bytes;
    }
    Ok(found)
}

/// The number after `.target sm_`.
fn target(text: &str) -> u32 {
    let digits = text.split(".target sm_").nth(1).unwrap_or("");
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(text: &str) -> Vec<u8> {
        let mut entry = vec![0u8; ENTRY_HEADER];
        entry[0] = 1;
        entry[4] = ENTRY_HEADER as u8;
        entry[8..16].copy_from_slice(&(text.len() as u64).to_le_bytes());
        entry[28] = 80;
        entry.extend(text.as_bytes());
        let mut all = MAGIC.to_le_bytes().to_vec();
        all.extend([1, 0, 16, 0]);
        all.extend((entry.len() as u64).to_le_bytes());
        all.extend(entry);
        all
    }

    #[test]
    fn finds_the_ptx_of_an_entry() {
        let found = entries(&binary(".version 8.0\n")).unwrap();
        assert_eq!(found, [Ptx { text: ".version 8.0\n".into(), arch: 80 }]);
    }

    #[test]
    fn refuses_what_is_cut_short() {
        let whole = binary(".version 8.0\n");
        for n in [17, 40, whole.len() - 1] {
            assert_eq!(entries(&whole[..n]), Err(Code::InvalidImage), "{n} bytes");
        }
    }
}

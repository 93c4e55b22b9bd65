//! Numbers as people write them: `128k` tokens, `80GiB` of memory. The errors are sentences without the flag and the value, which
//! clap puts in front.

use clap::builder::RangedU64ValueParser;

/// The largest whole number that a recipe can hold: TOML's are signed.
const MOST: u64 = i64::MAX as u64;

/// Reads a plain whole number, as clap does, that a recipe can hold.
pub fn whole<T>() -> RangedU64ValueParser<T>
where
    T: TryFrom<u64> + Clone + Send + Sync + 'static,
    T::Error: std::error::Error + Send + Sync,
{
    RangedU64ValueParser::new().range(..=MOST)
}

/// A number of tokens: `2048`, `2k` (1024), `1M` (1024²); 0 is refused.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let expected = "not a size: write a whole number, with k for 1024 or M for 1048576, as in 2048, 2k or 1M";
    let text = text.trim();
    let (digits, unit) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        _ => (text, 1),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(expected.into());
    }
    let most = |n: &usize| *n as u64 <= MOST;
    match digits.parse::<usize>().ok().and_then(|n| n.checked_mul(unit)).filter(most) {
        None => Err("larger than this machine can count".into()),
        Some(0) => Err("must be at least 1".into()),
        Some(size) => Ok(size),
    }
}

/// A number as [`parse_size`] reads it, or 0.
pub fn parse_count(text: &str) -> Result<usize, String> {
    if text.trim() == "0" { Ok(0) } else { parse_size(text) }
}

/// Bytes of memory: `80GiB` and `80G` (1024³), `512MB` (1000²), `1.5GiB`, `4096` or `4096B`. Units in any case.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let expected = "not an amount of memory: write a number and a unit, as in 80GiB, 512MB or 1.5G";
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..at], text[at..].trim().to_ascii_lowercase());
    let unit: u64 = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(expected.into()),
    };
    if number.is_empty() || !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(expected.into());
    }
    // Whole numbers in whole arithmetic: f64 is exact only below 2^53.
    if let Ok(whole) = number.parse::<u64>() {
        let bytes = whole.checked_mul(unit).filter(|&bytes| bytes <= MOST);
        return bytes.ok_or_else(|| "more memory than there is anywhere".into());
    }
    match number.parse::<f64>() {
        Ok(x) if x * (unit as f64) < (1u64 << 63) as f64 => Ok((x * unit as f64) as u64),
        Ok(_) => Err("more memory than there is anywhere".into()),
        Err(_) => Err(expected.into()),
    }
}

/// 131072 as "128k", 1000 as "1000".
pub fn size_text(n: usize) -> String {
    if n >= 1024 && n.is_multiple_of(1024) { format!("{}k", n / 1024) } else { n.to_string() }
}

/// 1234567890 as "1.15 GiB".
pub fn bytes_text(bytes: usize) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.2} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [("2048", 2048), ("2k", 2048), (" 128K ", 131_072), ("1M", 1 << 20), ("1", 1)] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for text in ["", "k", "-1", "+5", "2.5k", "2kk", "2 k", "0x10", "16G", "é", "２k", "2k,4k"] {
            assert!(parse_size(text).is_err_and(|e| e.contains("not a size")), "{text}");
        }
        assert!(parse_size("0k").is_err_and(|e| e.contains("at least 1")));
        for text in
            ["99999999999999999999", "18446744073709551615k", "9007199254740992k", "9223372036854775808"]
        {
            assert!(parse_size(text).is_err_and(|e| e.contains("larger")), "{text}");
        }
    }

    #[test]
    fn bytes() {
        for (text, bytes) in [
            ("80GiB", 80 << 30),
            ("80g", 80 << 30),
            ("512MB", 512_000_000),
            ("512 mib", 512 << 20),
            ("1.5GiB", 3 << 29),
            ("4096", 4096),
            ("4096B", 4096),
            ("0", 0),
            ("9223372036854775807", MOST),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "-1G", "1.2.3G", ".5G", "1Q", "1e9", "inf", "NaN"] {
            assert!(parse_bytes(text).is_err_and(|e| e.contains("not an amount")), "{text}");
        }
        for text in
            ["9223372036854775808", "9000000TiB", "99999999999TiB", "99999999.5TiB", "99999999999999999999"]
        {
            assert!(parse_bytes(text).is_err_and(|e| e.contains("anywhere")), "{text}");
        }
    }
}

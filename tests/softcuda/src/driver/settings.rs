//! What the environment asks of the driver.

use std::path::PathBuf;

/// A fault to be made on purpose, so that what a program does about it can be tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planted {
    /// Every image is refused as invalid.
    Image,
    /// This function is in no module.
    Function(String),
    /// The n-th launch (from 1) of this kernel touches an illegal address.
    Kernel(String, u64),
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub checks: bool,
    pub report: Option<PathBuf>,
    pub threads: usize,
    pub memory: u64,
    pub devices: usize,
    pub capability: (u32, u32),
    pub version: i32,
    pub planted: Option<Planted>,
    pub log: bool,
}

impl Settings {
    /// From the `SOFTCUDA_*` variables; one that cannot be read is an error that names it.
    pub fn from_env() -> Result<Settings, String> {
        Settings::read(|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
    }

    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Settings, String> {
        let number = |name: &str, default: u64| match get(name) {
            None => Ok(default),
            Some(text) => bytes(&text).ok_or(format!("{name}={text}: must be a number")),
        };
        let on = |name: &str, default: bool| match get(name).as_deref() {
            None => Ok(default),
            Some("on" | "1") => Ok(true),
            Some("off" | "0") => Ok(false),
            Some(other) => Err(format!("{name}={other}: must be on or off")),
        };
        let capability = get("SOFTCUDA_CAPABILITY").unwrap_or("8.0".into());
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        Ok(Settings {
            checks: on("SOFTCUDA_CHECK", true)?,
            report: get("SOFTCUDA_REPORT").map(PathBuf::from),
            threads: number("SOFTCUDA_THREADS", cores)?.max(1) as usize,
            memory: number("SOFTCUDA_MEMORY", 16 << 30)?,
            devices: number("SOFTCUDA_DEVICES", 1)? as usize,
            capability: capability
                .split_once('.')
                .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
                .ok_or(format!("SOFTCUDA_CAPABILITY={capability}: must be as 8.0"))?,
            version: number("SOFTCUDA_DRIVER_VERSION", 13000)? as i32,
            planted: get("SOFTCUDA_FAULT").map(|text| planted(&text)).transpose()?,
            log: on("SOFTCUDA_LOG", false)?,
        })
    }
}

/// `4096`, `512MiB`, `16GiB`.
fn bytes(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

fn planted(text: &str) -> Result<Planted, String> {
    let bad = || format!("SOFTCUDA_FAULT={text}: must be image, function:NAME, kernel:NAME or kernel:NAME:N");
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        ["image"] => Ok(Planted::Image),
        ["function", name] => Ok(Planted::Function(name.into())),
        ["kernel", name] => Ok(Planted::Kernel(name.into(), 1)),
        ["kernel", name, n] => Ok(Planted::Kernel(name.into(), n.parse().map_err(|_| bad())?)),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &'static str) -> Result<Settings, String> {
        Settings::read(move |asked| (asked == name).then(|| value.to_string()))
    }

    #[test]
    fn reads_sizes_switches_and_planted_faults() {
        assert_eq!(with("SOFTCUDA_MEMORY", "512MiB").unwrap().memory, 512 << 20);
        assert!(!with("SOFTCUDA_CHECK", "off").unwrap().checks);
        assert_eq!(with("SOFTCUDA_CAPABILITY", "9.0").unwrap().capability, (9, 0));
        let planted = with("SOFTCUDA_FAULT", "kernel:rope_f32:3").unwrap().planted;
        assert_eq!(planted, Some(Planted::Kernel("rope_f32".into(), 3)));
    }

    #[test]
    fn what_cannot_be_read_names_its_variable() {
        for (name, value) in [
            ("SOFTCUDA_MEMORY", "lots"),
            ("SOFTCUDA_CHECK", "maybe"),
            ("SOFTCUDA_CAPABILITY", "ampere"),
            ("SOFTCUDA_FAULT", "kernel"),
        ] {
            assert!(with(name, value).unwrap_err().contains(name));
        }
    }
}

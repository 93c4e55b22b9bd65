//! The plan as text, and what the operating system says of this process.

use super::{Kind, Ledger};
use std::fmt::Write;

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

impl Ledger {
    /// Totals by kind; with `every_buffer`, each row too.
    pub fn table(&self, every_buffer: bool) -> String {
        let mut out = String::new();
        if every_buffer {
            let width = self.rows().iter().map(|row| row.name.len()).max().unwrap_or(0);
            for row in self.rows() {
                let shape: Vec<String> = row.shape.iter().map(usize::to_string).collect();
                let shape = format!("[{}]", shape.join(", "));
                let (kind, name, dtype) = (row.kind, &row.name, row.dtype);
                let _ = writeln!(
                    out,
                    "  {kind:15} {name:width$}  {dtype:5} {shape:24} {:>12}",
                    bytes_text(row.bytes)
                );
            }
        }
        for kind in Kind::ALL {
            let (bytes, count) = (self.of(kind), self.rows().iter().filter(|row| row.kind == kind).count());
            if bytes > 0 {
                let plural = if count == 1 { "buffer" } else { "buffers" };
                let _ = writeln!(out, "  {kind:15} {:>12}   {count} {plural}", bytes_text(bytes));
            }
        }
        let _ = writeln!(out, "  {:15} {:>12}", "total", bytes_text(self.total()));
        out
    }
}

/// A field of /proc/self/status in bytes; None where there is no such file.
fn status_bytes(field: &str) -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Resident memory of this process in bytes, (now, at its peak since [`reset_peak`]); None where /proc is missing.
pub fn resident_bytes() -> Option<(usize, usize)> {
    Some((status_bytes("VmRSS:")?, status_bytes("VmHWM:")?))
}

/// Forgets the peak so far, so that the next reading speaks of what follows. Where it cannot, nothing happens.
pub fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Memory that can be taken without swapping, in bytes, by the system and by this process's cgroup; None where it is
/// not said.
pub fn available_bytes() -> Option<usize> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let system = line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024;
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<usize>().ok();
    let cgroup = number("/sys/fs/cgroup/memory.max").zip(number("/sys/fs/cgroup/memory.current"));
    Some(cgroup.map_or(system, |(max, used)| system.min(max.saturating_sub(used))))
}

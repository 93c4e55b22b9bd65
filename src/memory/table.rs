//! The plan as text.

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

/// What a run took beside what was planned for it.
pub fn peak_text(peak: Option<usize>, planned: usize) -> String {
    let peak = peak.map_or("not known here".into(), bytes_text);
    format!("peak memory {peak}, planned {}", bytes_text(planned))
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

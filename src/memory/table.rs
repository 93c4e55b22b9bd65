//! The plan as text.

use super::{Kind, Ledger};
use crate::size::bytes_text;
use std::fmt::Write;

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

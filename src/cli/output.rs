//! Tables for the terminal.

pub use crate::size::size_text;

/// Rows of cells under headings, columns right-aligned but for the first.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let columns = headings.len();
    let width = |c: usize| {
        let cells = rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count());
        cells.chain([headings[c].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: &[String]| {
        let mut out = String::new();
        for (c, cell) in cells.iter().enumerate() {
            let padded = if c == 0 {
                format!("{cell:<w$}", w = widths[c])
            } else {
                format!("  {cell:>w$}", w = widths[c])
            };
            out.push_str(&padded);
        }
        out.trim_end().to_string() + "\n"
    };
    let headings: Vec<String> = headings.iter().map(|h| h.to_string()).collect();
    let rule: Vec<String> = widths.iter().map(|&w| "-".repeat(w)).collect();
    let mut out = line(&headings) + &line(&rule);
    rows.iter().for_each(|row| out.push_str(&line(row)));
    out
}

/// How much of the prompts was read.
pub fn print_spent(spent: crate::eval::Spent) {
    outln!("{} tokens read, {} reused from the cache", spent.read, spent.reused);
}

/// A standard error, where there is one.
pub fn error_text(error: Option<f64>, decimals: usize) -> String {
    error.map_or("-".into(), |error| format!("{error:.decimals$}"))
}

/// 93.5 as "1:34".
pub fn seconds_text(seconds: f64) -> String {
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{}:{:02} min", seconds as u64 / 60, seconds as u64 % 60)
    }
}

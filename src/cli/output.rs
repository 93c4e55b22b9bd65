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

/// A mean with its standard error, where it has one.
pub fn mean_text((mean, error): (f64, Option<f64>), decimals: usize) -> String {
    error.map_or(format!("{mean:.decimals$}"), |error| format!("{mean:.decimals$} +/- {error:.decimals$}"))
}

/// 93.5 as "1:34 min", 5.26 as "5.3 s".
pub fn seconds_text(seconds: f64) -> String {
    // what would be rounded to 60.0 is a minute
    if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else {
        let whole = seconds.round() as u64;
        format!("{}:{:02} min", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded() {
        for (seconds, text) in [
            (0.0, "0.0 s"),
            (5.26, "5.3 s"),
            (59.94, "59.9 s"),
            (59.96, "1:00 min"),
            (93.5, "1:34 min"),
            (119.7, "2:00 min"),
            (3725.2, "62:05 min"),
        ] {
            assert_eq!(seconds_text(seconds), text, "{seconds}");
        }
    }
}

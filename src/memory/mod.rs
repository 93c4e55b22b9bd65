//! The plan of every buffer.
//!
//! A run takes all its memory through a [`Ledger`], before its first step. A dry ledger hands out empty buffers and only
//! writes the rows: so `plan` runs the very code that allocates, and cannot disagree with it.

mod ledger;
mod table;

pub use ledger::{Kind, Ledger, Row};
pub use table::{available_bytes, bytes_text, reset_peak, resident_bytes};

use crate::error::{Error, Result};

/// Refuses a plan that is larger than `limit` bytes, naming its largest buffers and the flags that shrink them.
pub fn check_fits(rows: &[Row], limit: usize, where_from: &str) -> Result<()> {
    let total: usize = rows.iter().map(|row| row.bytes).sum();
    if total <= limit {
        return Ok(());
    }
    let mut largest: Vec<&Row> = rows.iter().collect();
    largest.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    let named: Vec<String> = largest
        .iter()
        .take(3)
        .map(|row| format!("{} {} ({})", row.name, bytes_text(row.bytes), row.kind))
        .collect();
    let mut remedies: Vec<&str> = largest.iter().take(3).map(|row| row.kind.remedy()).collect();
    remedies.dedup();
    Err(Error::DoesNotFit(format!(
        "the plan takes {} and {where_from} is {}; the largest buffers are {}; {}",
        bytes_text(total),
        bytes_text(limit),
        named.join(", "),
        remedies.join("; ")
    )))
}

//! The plan of every buffer.
//!
//! A run takes all its memory through a [`Ledger`], before its first step. A dry ledger hands out empty buffers and only
//! writes the rows: so `plan` runs the very code that allocates, and cannot disagree with it.

mod ledger;
mod resident;
mod split;
mod table;

pub use crate::size::bytes_text;
pub use ledger::{Kind, Ledger, Row};
pub use resident::{available_bytes, reset_peak, resident_bytes};
pub use split::{Split, split_text};
pub use table::peak_text;

use crate::backend::Backend;
use crate::error::{Error, Result};

/// Enters what the process takes beside its buffers: measured on Linux, see docs/numerics.md. `text` is in tokens.
pub fn note_program(ledger: &mut Ledger, tokenizer_bytes: usize, text: usize) {
    const CODE_AND_THREADS: usize = 9 << 20;
    if text > 0 {
        ledger.note(Kind::Program, "tokenized text", &[text], "u32", 4 * text);
    }
    ledger.note(Kind::Program, "code and threads", &[], "u8", CODE_AND_THREADS);
    ledger.note(Kind::Program, "tokenizer", &[], "u8", tokenizer_bytes);
}

/// The memory that a plan must fit in.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub bytes: usize,
    name: &'static str,
    /// Whether the program itself, and the text that it reads, must fit too.
    with_program: bool,
}

impl Room {
    /// What the user gives; `host`: of memory that the program lies in too.
    pub fn given(bytes: usize, host: bool) -> Room {
        Room { bytes, name: "--device-memory", with_program: host }
    }

    /// What a run on this backend could have in all; None where the system does not say.
    pub fn in_reach<B: Backend>(b: &B) -> Option<Room> {
        if !B::SHARES_HOST_MEMORY {
            return Room::left(b);
        }
        let room = |bytes| Room { bytes, name: "memory available", with_program: true };
        resident::within_reach_bytes().map(room)
    }

    /// What is free now of the backend's memory: the program, and the text that it has read, have theirs by now.
    fn left<B: Backend>(b: &B) -> Option<Room> {
        let name = if B::SHARES_HOST_MEMORY { "memory available" } else { "free memory of the device" };
        b.free_bytes().map(|bytes| Room { bytes, name, with_program: false })
    }

    /// Whether a plan is no larger.
    pub fn holds(&self, plan: &Ledger) -> bool {
        self.rows(plan).map(|row| row.bytes).sum::<usize>() <= self.bytes
    }

    fn rows<'a>(&'a self, plan: &'a Ledger) -> impl Iterator<Item = &'a Row> {
        plan.rows().iter().filter(|row| self.with_program || row.kind != Kind::Program)
    }

    /// Refuses a plan that is larger, naming its largest buffers and the flags that shrink them.
    pub fn check(&self, plan: &Ledger) -> Result<()> {
        let rows: Vec<Row> = self.rows(plan).cloned().collect();
        check_fits(&rows, self.bytes, self.name)
    }
}

/// Refuses a plan whose buffers do not fit into what is free now of the backend's memory.
pub fn check_room<B: Backend>(b: &B, plan: &Ledger) -> Result<()> {
    Room::left(b).map_or(Ok(()), |room| room.check(plan))
}

fn check_fits(rows: &[Row], limit: usize, where_from: &str) -> Result<()> {
    let total: usize = rows.iter().map(|row| row.bytes).sum();
    if total <= limit {
        return Ok(());
    }
    // by kind first: a cache is many buffers, none of which is large
    let of = |kind: Kind| rows.iter().filter(|row| row.kind == kind).map(|row| row.bytes).sum::<usize>();
    let mut kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|&kind| of(kind) > 0).collect();
    kinds.sort_by_key(|&kind| std::cmp::Reverse(of(kind)));
    kinds.truncate(3);
    let name = |&kind: &Kind| {
        let mut largest: Option<&Row> = None;
        for row in rows.iter().filter(|row| row.kind == kind) {
            largest = largest.filter(|l| l.bytes >= row.bytes).or(Some(row));
        }
        let row =
            largest.map_or(String::new(), |row| format!(", {} of them {}", bytes_text(row.bytes), row.name));
        format!("{kind} ({}{row})", bytes_text(of(kind)))
    };
    let named: Vec<String> = kinds.iter().map(name).collect();
    let mut remedies: Vec<&str> = Vec::new();
    for remedy in kinds.iter().filter_map(|kind| kind.remedy(rows)) {
        if !remedies.contains(&remedy) {
            remedies.push(remedy);
        }
    }
    if remedies.is_empty() {
        remedies.push("what would make these smaller is in force already");
    }
    Err(Error::DoesNotFit(format!(
        "the plan takes {} and {where_from} is {}; the largest are {}; {}",
        bytes_text(total),
        bytes_text(limit),
        named.join(", "),
        remedies.join("; ")
    )))
}

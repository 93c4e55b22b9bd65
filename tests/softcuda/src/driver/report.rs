//! `SOFTCUDA_REPORT`: one JSON object with a line for each launch, then the findings and the leaks.

use super::settings::Settings;
use crate::counters::{Class, Counters, Global};
use crate::{Fault, Launch};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Mutex;

/// Findings and launches of the process so far.
pub struct Report {
    inner: Mutex<Inner>,
    log: bool,
}

struct Inner {
    file: Option<BufWriter<File>>,
    first: bool,
    findings: Vec<Value>,
}

impl Report {
    pub fn open(settings: &Settings) -> Result<Report, String> {
        let file = settings.report.as_ref().map(|path| {
            let create = File::create(path).and_then(|file| {
                let mut file = BufWriter::new(file);
                file.write_all(b"{\"launches\": [")?;
                Ok(file)
            });
            create.map_err(|e| format!("SOFTCUDA_REPORT={}: {e}", path.display()))
        });
        let inner = Inner { file: file.transpose()?, first: true, findings: Vec::new() };
        Ok(Report { inner: Mutex::new(inner), log: settings.log })
    }

    pub fn wanted(&self) -> bool {
        self.inner.lock().unwrap().file.is_some()
    }

    pub fn launch(&self, l: &Launch<'_>, counters: &Counters) {
        if self.log {
            eprintln!("softcuda: {} {:?} x {:?}", l.kernel.name, l.grid, l.block);
        }
        let mut inner = self.inner.lock().unwrap();
        let separator = if std::mem::replace(&mut inner.first, false) { "\n" } else { ",\n" };
        if let Some(file) = &mut inner.file {
            // a full disk must not stop the program that is looked at
            _ = write!(file, "{separator}{}", line(l, counters));
        }
    }

    pub fn finding(&self, fault: &Fault) {
        let finding = json!({ "kind": format!("{:?}", fault.kind), "text": fault.to_string() });
        self.inner.lock().unwrap().findings.push(finding);
    }

    /// Says what was never freed, and ends the file.
    pub fn close(&self, leaks: &[(u64, u64)]) {
        if !leaks.is_empty() {
            let bytes: u64 = leaks.iter().map(|(_, bytes)| bytes).sum();
            eprintln!("softcuda: Leak: {} allocations of {bytes} bytes were never freed", leaks.len());
        }
        let leaks: Vec<Value> = leaks
            .iter()
            .map(|(at, bytes)| json!({ "address": format!("{at:#x}"), "bytes": bytes }))
            .collect();
        let mut inner = self.inner.lock().unwrap();
        let findings = Value::Array(std::mem::take(&mut inner.findings));
        if let Some(mut file) = inner.file.take() {
            _ = write!(file, "\n],\n\"findings\": {findings},\n\"leaks\": {}}}\n", Value::Array(leaks));
            _ = file.flush();
        }
    }
}

fn line(l: &Launch<'_>, c: &Counters) -> Value {
    let global = |g: &Global| json!({ "requests": g.requests, "sectors": g.sectors, "ideal_sectors": g.ideal_sectors, "bytes": g.bytes });
    let classes: serde_json::Map<String, Value> =
        Class::ALL.iter().map(|class| (class.name().into(), c.classes[*class as usize].into())).collect();
    json!({
        "kernel": l.kernel.name, "grid": l.grid, "block": l.block, "dynamic_shared": l.dynamic_shared,
        "warp_instructions": c.warp_instructions, "thread_instructions": c.thread_instructions,
        "warp_instructions_by_class": classes,
        "loads": global(&c.loads), "stores": global(&c.stores), "atomics": global(&c.atomics),
        "async_copies": global(&c.async_copies),
        "shared_wavefronts": c.shared_wavefronts, "shared_bank_conflicts": c.bank_conflicts(),
        "mma": c.mma, "tensor_ops": c.tensor_ops,
    })
}

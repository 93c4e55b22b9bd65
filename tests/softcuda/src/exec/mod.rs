//! Runs a kernel: blocks over the host's threads, each block warp by warp.

mod access;
mod alu;
mod block;
mod calls;
mod common;
mod exchange;
mod float;
mod integer;
mod matrix;
mod mma;
mod shared;
mod soft;
mod tensor;
mod warp;

use crate::counters::Counters;
use crate::fault::{Fault, FaultKind, Result};
use crate::memory::Memory;
use crate::program::Kernel;
use block::Block;
use shared::Shared;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use alu::{compare, compute};

pub struct Launch<'a> {
    pub kernel: &'a Kernel,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    /// The parameter block, each parameter at its offset.
    pub params: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub checks: bool,
    /// Host threads; at least 1.
    pub threads: usize,
    /// Sectors and bank conflicts too.
    pub count: bool,
    /// Warp instructions that a block may take.
    pub max_instructions: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Options { checks: true, threads, count: true, max_instructions: None }
    }
}

/// Runs to the end, or to the first finding.
pub fn launch(memory: &Memory, launch: &Launch<'_>, options: &Options) -> Result<Counters> {
    let kernel = launch.kernel;
    let refuse =
        |problem: String| Err(Fault::new(FaultKind::BadLaunch, format!("kernel {}: {problem}", kernel.name)));
    let threads: u64 = launch.block.iter().map(|n| u64::from(*n)).product();
    if threads == 0 || threads > u64::from(kernel.max_threads) {
        return refuse(format!("{threads} threads in a block; 1 to {} are allowed", kernel.max_threads));
    }
    if launch.params.len() < kernel.param_bytes as usize {
        return refuse(format!(
            "{} bytes of parameters instead of {}",
            launch.params.len(),
            kernel.param_bytes
        ));
    }
    let blocks: u64 = launch.grid.iter().map(|n| u64::from(*n)).product();
    if blocks == 0 {
        return refuse("an empty grid".into());
    }
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (total, fault) = (Mutex::new(Counters::default()), Mutex::new(None));
    let work = || {
        let bytes = kernel.static_shared as usize + launch.dynamic_shared as usize;
        let mut shared = Shared::new(bytes, options.checks);
        let mut counters = Counters::default();
        while !stop.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= blocks {
                break;
            }
            let [x, y, _] = launch.grid.map(u64::from);
            shared.reset();
            let mut block = Block {
                kernel,
                memory,
                params: launch.params,
                grid: launch.grid,
                threads: launch.block,
                index: [(i % x) as u32, (i / x % y) as u32, (i / x / y) as u32],
                dynamic_shared: launch.dynamic_shared,
                shared: &mut shared,
                checks: options.checks,
                counting: options.count,
                counters: Counters::default(),
                limit: options.max_instructions.unwrap_or(u64::MAX),
            };
            let done = block.run();
            counters.add(&block.counters);
            if let Err(found) = done {
                stop.store(true, Ordering::Relaxed);
                fault.lock().unwrap().get_or_insert(found);
            }
        }
        total.lock().unwrap().add(&counters);
    };
    std::thread::scope(|scope| {
        for _ in 1..options.threads.min(blocks as usize) {
            scope.spawn(work);
        }
        work();
    });
    match fault.into_inner().unwrap() {
        Some(fault) => Err(fault),
        None => Ok(total.into_inner().unwrap()),
    }
}

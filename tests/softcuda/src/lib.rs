//! Executes the PTX that nvcc emits on the CPU, warp by warp, and checks every access as it goes.
//!
//! `ptx` reads the text, `program` decodes a kernel once, `exec` runs its blocks, `memory` is the device's memory. What is
//! modelled and what is not stands in README.md.

pub mod counters;
mod driver;
pub mod exec;
pub mod fault;
pub mod memory;
pub mod program;
pub mod ptx;

pub use counters::Counters;
pub use driver::ptx_of_fatbin;
pub use exec::{Launch, Options, launch};
pub use fault::{Fault, FaultKind};
pub use memory::Memory;
pub use program::{Kernel, Module};
pub use ptx::PtxError;

//! The flags of a benchmark: `--name value`, anywhere on the command line.

// Each benchmark has some of it.
#![allow(dead_code)]

use pose_engine::backend::device::Device;

/// The value that follows `name`.
pub fn flag(name: &str) -> Option<String> {
    std::env::args().skip_while(|arg| arg != name).nth(1)
}

/// Where to compute: `--device cpu` or `--device cuda:N`; the CPU where there is none.
pub fn device() -> Device {
    let parse = |text: String| text.parse().unwrap_or_else(|problem| panic!("--device {text}: {problem}"));
    flag("--device").map_or(Device::Cpu, parse)
}

/// A number, or the default.
pub fn number(name: &str, default: usize) -> usize {
    flag(name).map_or(default, |text| parse(name, &text))
}

/// Numbers with commas between them, or the default ones.
pub fn numbers(name: &str, default: &str) -> Vec<usize> {
    let text = flag(name);
    text.as_deref().unwrap_or(default).split(',').map(|text| parse(name, text)).collect()
}

fn parse(name: &str, text: &str) -> usize {
    text.parse().unwrap_or_else(|_| panic!("{name} takes a number, not {text}"))
}

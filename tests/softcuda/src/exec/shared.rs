//! A block's shared memory, with who touched each byte since the last barrier.

use crate::fault::{Fault, FaultKind, Result};

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Content {
    #[default]
    Never,
    /// A cp.async into it was started and not waited for.
    OnItsWay,
    Written,
}

/// Between two barriers (an epoch) a byte may be read by many warps, or touched by one.
#[derive(Clone, Copy, Default)]
struct Mark {
    content: Content,
    write_epoch: u32,
    write_warp: u32,
    read_epoch: u32,
    read_warp: u32,
}

const SEVERAL: u32 = u32::MAX;

pub struct Shared {
    pub data: Vec<u8>,
    marks: Vec<Mark>,
    epoch: u32,
}

impl Shared {
    pub fn new(bytes: usize, checks: bool) -> Self {
        Shared {
            data: vec![0; bytes],
            marks: vec![Mark::default(); if checks { bytes } else { 0 }],
            epoch: 1,
        }
    }

    /// For the next block: nothing is written.
    pub fn reset(&mut self) {
        self.marks.fill(Mark::default());
        self.epoch = 1;
    }

    /// All warps have met.
    pub fn barrier(&mut self) {
        self.epoch += 1;
    }

    fn bounds(&self, at: u64, bytes: usize) -> Result<std::ops::Range<usize>> {
        let end = at.saturating_add(bytes as u64);
        if end > self.data.len() as u64 {
            let problem = format!("{bytes} bytes at byte {at} of {} bytes of shared memory", self.data.len());
            return Err(Fault::new(FaultKind::OutOfBounds, problem));
        }
        Ok(at as usize..end as usize)
    }

    pub fn read(&mut self, warp: u32, at: u64, bytes: usize) -> Result<&[u8]> {
        let range = self.bounds(at, bytes)?;
        if !self.marks.is_empty() {
            let epoch = self.epoch;
            for (i, m) in self.marks[range.clone()].iter_mut().enumerate() {
                let here = at + i as u64;
                if m.content != Content::Written {
                    let why = if m.content == Content::Never {
                        "was never written"
                    } else {
                        "a cp.async is still writing"
                    };
                    return Err(Fault::new(
                        FaultKind::UninitialisedShared,
                        format!("reads byte {here} of shared memory, which {why}"),
                    ));
                }
                if m.write_epoch == epoch && m.write_warp != warp {
                    return Err(race(format!(
                        "reads byte {here} of shared memory, which warp {} wrote",
                        m.write_warp
                    )));
                }
                let others = m.read_epoch == epoch && m.read_warp != warp;
                m.read_epoch = epoch;
                m.read_warp = if others { SEVERAL } else { warp };
            }
        }
        Ok(&self.data[range])
    }

    fn touch(
        &mut self, warp: u32, at: u64, bytes: usize, content: Content,
    ) -> Result<std::ops::Range<usize>> {
        let range = self.bounds(at, bytes)?;
        if !self.marks.is_empty() {
            let epoch = self.epoch;
            for (i, m) in self.marks[range.clone()].iter_mut().enumerate() {
                let here = at + i as u64;
                if m.write_epoch == epoch && m.write_warp != warp {
                    return Err(race(format!(
                        "writes byte {here} of shared memory, which warp {} wrote",
                        m.write_warp
                    )));
                }
                if m.read_epoch == epoch && m.read_warp != warp {
                    return Err(race(format!(
                        "writes byte {here} of shared memory, which another warp read"
                    )));
                }
                (m.content, m.write_epoch, m.write_warp) = (content, epoch, warp);
            }
        }
        Ok(range)
    }

    pub fn write(&mut self, warp: u32, at: u64, bytes: &[u8]) -> Result<()> {
        let range = self.touch(warp, at, bytes.len(), Content::Written)?;
        self.data[range].copy_from_slice(bytes);
        Ok(())
    }

    /// A cp.async was started: the bytes must not be touched by others from now on, nor read before it is waited for.
    pub fn announce(&mut self, warp: u32, at: u64, bytes: usize) -> Result<()> {
        self.touch(warp, at, bytes, Content::OnItsWay).map(|_| ())
    }

    /// For an atomic: no race with other atomics.
    pub fn exclusive(&mut self, at: u64, bytes: usize) -> Result<&mut [u8]> {
        let range = self.bounds(at, bytes)?;
        if self.marks.get(range.clone()).is_some_and(|m| m.iter().any(|m| m.content != Content::Written)) {
            let problem = format!("atomic on byte {at} of shared memory, which was never written");
            return Err(Fault::new(FaultKind::UninitialisedShared, problem));
        }
        Ok(&mut self.data[range])
    }
}

fn race(problem: String) -> Fault {
    Fault::new(FaultKind::SharedRace, format!("{problem} with no barrier between"))
}

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

/// Who touches a byte: a lane of a warp, after how many of its warp's `bar.warp.sync`.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    pub warp: u32,
    pub lane: u8,
    pub phase: u32,
}

/// For what a whole warp reads together.
pub const WHOLE_WARP: u8 = u8::MAX;

/// Between two barriers (an epoch) a byte may be read by many warps, or touched by one; in it, between two phases, it may be
/// read by many lanes, or touched by one.
#[derive(Clone, Copy, Default)]
struct Mark {
    write_epoch: u32,
    read_epoch: u32,
    write_phase: u32,
    read_phase: u32,
    // a block has 32 warps at most
    write_warp: u8,
    read_warp: u8,
    write_lane: u8,
    read_lane: u8,
    content: Content,
}

const SEVERAL: u8 = u8::MAX;

pub struct Shared {
    pub data: Vec<u8>,
    marks: Vec<Mark>,
    epoch: u32,
}

impl Mark {
    fn may_read(&self, who: Who, epoch: u32) -> std::result::Result<(), String> {
        match self.content {
            Content::Never => return Err("was never written".into()),
            Content::OnItsWay => return Err("a cp.async is still writing".into()),
            Content::Written => {}
        }
        if self.write_epoch != epoch {
            return Ok(());
        }
        if u32::from(self.write_warp) != who.warp {
            return Err(format!("warp {} wrote with no barrier between", self.write_warp));
        }
        if self.write_phase == who.phase && self.write_lane != who.lane {
            return Err(format!("lane {} of its warp wrote with no bar.warp.sync between", self.write_lane));
        }
        Ok(())
    }

    fn read(&mut self, who: Who, epoch: u32) {
        let again = self.read_epoch == epoch && self.read_warp == who.warp as u8;
        let several_warps = self.read_epoch == epoch && !again;
        let several_lanes = again && self.read_phase == who.phase && self.read_lane != who.lane;
        self.read_epoch = epoch;
        self.read_phase = who.phase;
        self.read_warp = if several_warps { SEVERAL } else { who.warp as u8 };
        self.read_lane = if several_lanes { WHOLE_WARP } else { who.lane };
    }

    /// `same`: what is written is there already, so that lanes of one warp may both write it.
    fn may_write(&self, who: Who, epoch: u32, same: bool) -> std::result::Result<(), String> {
        if self.write_epoch == epoch && u32::from(self.write_warp) != who.warp {
            return Err(format!("warp {} wrote with no barrier between", self.write_warp));
        }
        if self.read_epoch == epoch && u32::from(self.read_warp) != who.warp {
            return Err("another warp read with no barrier between".into());
        }
        if same {
            return Ok(());
        }
        let here = |epoch_then: u32, phase: u32, lane: u8| {
            epoch_then == epoch && phase == who.phase && lane != who.lane
        };
        if here(self.write_epoch, self.write_phase, self.write_lane) {
            return Err(format!("lane {} of its warp wrote with no bar.warp.sync between", self.write_lane));
        }
        if here(self.read_epoch, self.read_phase, self.read_lane) {
            return Err("another lane of its warp read with no bar.warp.sync between".into());
        }
        Ok(())
    }
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

    pub fn read(&mut self, who: Who, at: u64, bytes: usize) -> Result<&[u8]> {
        let range = self.bounds(at, bytes)?;
        if !self.marks.is_empty() {
            for (i, m) in self.marks[range.clone()].iter_mut().enumerate() {
                if let Err(why) = m.may_read(who, self.epoch) {
                    let kind = if m.content == Content::Written {
                        FaultKind::SharedRace
                    } else {
                        FaultKind::UninitialisedShared
                    };
                    let problem = format!("reads byte {} of shared memory, which {why}", at + i as u64);
                    return Err(Fault::new(kind, problem));
                }
                m.read(who, self.epoch);
            }
        }
        Ok(&self.data[range])
    }

    /// The new bytes, where they are known.
    fn touch(
        &mut self, who: Who, at: u64, bytes: usize, new: Option<&[u8]>,
    ) -> Result<std::ops::Range<usize>> {
        let range = self.bounds(at, bytes)?;
        if self.marks.is_empty() {
            return Ok(range);
        }
        for (i, m) in self.marks[range.clone()].iter_mut().enumerate() {
            let same =
                m.content == Content::Written && new.is_some_and(|new| new[i] == self.data[range.start + i]);
            if let Err(why) = m.may_write(who, self.epoch, same) {
                let problem = format!("writes byte {} of shared memory, which {why}", at + i as u64);
                return Err(Fault::new(FaultKind::SharedRace, problem));
            }
            m.content = if new.is_some() { Content::Written } else { Content::OnItsWay };
            m.write_epoch = self.epoch;
            m.write_phase = who.phase;
            m.write_warp = who.warp as u8;
            m.write_lane = who.lane;
        }
        Ok(range)
    }

    pub fn write(&mut self, who: Who, at: u64, bytes: &[u8]) -> Result<()> {
        let range = self.touch(who, at, bytes.len(), Some(bytes))?;
        self.data[range].copy_from_slice(bytes);
        Ok(())
    }

    /// A cp.async was started: the bytes must not be touched by others from now on, nor read before it is waited for.
    pub fn announce(&mut self, who: Who, at: u64, bytes: usize) -> Result<()> {
        self.touch(who, at, bytes, None).map(|_| ())
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

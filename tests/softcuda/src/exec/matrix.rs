//! `ldmatrix`, `stmatrix`, and the loads and stores of `wmma` (PTX ISA 9.0, sections 9.7.14.5 and 9.7.15).

use super::access::{Addresses, addresses, aligned, count_global, count_shared, read, resolve, write};
use super::block::Block;
use super::mma::{self, Lanes};
use super::shared::WHOLE_WARP;
use super::warp::{Warp, whole_warp};
use crate::fault::Result;
use crate::program::{Area, Code, Fragment, Place, Src};

pub fn run(warp: &mut Warp, block: &mut Block<'_>, code: &Code, mask: u32) -> Result<()> {
    match code {
        Code::LoadMatrix { to, place, transposed } => load(warp, block, to, *place, *transposed, mask),
        Code::StoreMatrix { from, place, transposed } => store(warp, block, from, *place, *transposed, mask),
        Code::LoadFragment { fragment, to, place, stride, by_column } => {
            whole_warp(mask, "wmma.load")?;
            let layout = Layout::of(warp, fragment, *place, *stride, *by_column);
            let mut out = vec![[0; 32]; to.len()];
            layout.load(warp, block, &mut out)?;
            to.iter().zip(&out).for_each(|(to, out)| warp.set(*to, mask, out));
            Ok(())
        }
        Code::StoreFragment { fragment, from, place, stride, by_column } => {
            whole_warp(mask, "wmma.store")?;
            let layout = Layout::of(warp, fragment, *place, *stride, *by_column);
            let values: Vec<Lanes> = from.iter().map(|r| warp.value(*r)).collect();
            layout.store(warp, block, &values)
        }
        _ => Ok(()),
    }
}

fn load(
    warp: &mut Warp, block: &mut Block<'_>, to: &[u32], place: Place, transposed: bool, mask: u32,
) -> Result<()> {
    whole_warp(mask, "ldmatrix")?;
    let mut at = addresses(warp, place);
    resolve(Area::Shared, &mut at, mask);
    for (i, d) in to.iter().enumerate() {
        let mut rows = [[0u16; 8]; 8];
        if block.counting {
            count_shared(block, &at, 16, 0xff << (8 * i));
        }
        for (row, to) in rows.iter_mut().enumerate() {
            let at = at[8 * i + row];
            aligned(block, at, 16)?;
            let bytes = block.shared.read(warp.who(WHOLE_WARP.into()), at, 16)?;
            for (to, pair) in to.iter_mut().zip(bytes.chunks_exact(2)) {
                *to = u16::from_le_bytes([pair[0], pair[1]]);
            }
        }
        warp.registers[*d as usize] = std::array::from_fn(|lane| mma::matrix_part(&rows, lane, transposed));
    }
    Ok(())
}

/// The way back: row i of matrix j goes where lane 8j + i says.
fn store(
    warp: &mut Warp, block: &mut Block<'_>, from: &[Src], place: Place, transposed: bool, mask: u32,
) -> Result<()> {
    whole_warp(mask, "stmatrix")?;
    let mut at = addresses(warp, place);
    resolve(Area::Shared, &mut at, mask);
    for (i, s) in from.iter().enumerate() {
        let values = warp.value(*s);
        if block.counting {
            count_shared(block, &at, 16, 0xff << (8 * i));
        }
        let mut rows = [[0u8; 16]; 8];
        for (lane, value) in values.iter().enumerate() {
            for e in 0..2 {
                let (along, across) = (lane / 4, lane % 4 * 2 + e);
                let (row, column) = if transposed { (across, along) } else { (along, across) };
                rows[row][2 * column..][..2].copy_from_slice(&((value >> (16 * e)) as u16).to_le_bytes());
            }
        }
        for (row, bytes) in rows.iter().enumerate() {
            let lane = 8 * i + row;
            aligned(block, at[lane], 16)?;
            write(warp, block, Area::Shared, lane, at[lane], bytes)?;
        }
    }
    Ok(())
}

/// A fragment's matrix in memory.
struct Layout<'a> {
    fragment: &'a Fragment,
    area: Area,
    start: u64,
    stride: u64,
    by_column: bool,
}

impl<'a> Layout<'a> {
    fn of(warp: &Warp, fragment: &'a Fragment, place: Place, stride: Src, by_column: bool) -> Self {
        let mut at = addresses(warp, place);
        let area = resolve(place.area, &mut at, u32::MAX);
        let stride = warp.value(stride)[0] & 0xffff_ffff;
        Layout { fragment, area, start: at[0], stride, by_column }
    }

    fn bytes(&self) -> usize {
        self.fragment.element.bits() / 8
    }

    fn at(&self, r: usize, e: usize) -> Addresses {
        std::array::from_fn(|lane| {
            let (row, column) = self.fragment.place(lane, r, e);
            let (along, across) = if self.by_column { (column, row) } else { (row, column) };
            self.start + (along as u64 * self.stride + across as u64) * self.bytes() as u64
        })
    }

    /// Elements of a register that lie one after the other go in one request.
    fn run(&self) -> usize {
        let packed = self.fragment.element.packed();
        if packed > 1 && self.at(0, 1)[0] == self.at(0, 0)[0] + self.bytes() as u64 { packed } else { 1 }
    }

    fn load(&self, warp: &mut Warp, block: &mut Block<'_>, to: &mut [Lanes]) -> Result<()> {
        let (run, distinct) = (self.run(), self.fragment.registers());
        let bytes = run * self.bytes();
        for (r, to) in to.iter_mut().enumerate().take(distinct) {
            for e in (0..self.fragment.element.packed()).step_by(run) {
                let at = self.at(r, e);
                self.count(block, &at, bytes, false);
                for lane in 0..32 {
                    let mut word = [0; 8];
                    aligned(block, at[lane], bytes)?;
                    read(warp, block, self.area, lane, at[lane], &mut word[..bytes])?;
                    to[lane] |= u64::from_le_bytes(word) << (e * self.fragment.element.bits());
                }
            }
        }
        for r in distinct..to.len() {
            to[r] = to[r % distinct];
        }
        Ok(())
    }

    fn store(&self, warp: &mut Warp, block: &mut Block<'_>, from: &[Lanes]) -> Result<()> {
        let run = self.run();
        let bytes = run * self.bytes();
        for (r, values) in from.iter().enumerate() {
            for e in (0..self.fragment.element.packed()).step_by(run) {
                let at = self.at(r, e);
                self.count(block, &at, bytes, true);
                for lane in 0..32 {
                    aligned(block, at[lane], bytes)?;
                    let word = (values[lane] >> (e * self.fragment.element.bits())).to_le_bytes();
                    write(warp, block, self.area, lane, at[lane], &word[..bytes])?;
                }
            }
        }
        Ok(())
    }

    fn count(&self, block: &mut Block<'_>, at: &Addresses, bytes: usize, store: bool) {
        match self.area {
            _ if !block.counting => {}
            Area::Global if store => count_global(&mut block.counters.stores, at, bytes, u32::MAX),
            Area::Global => count_global(&mut block.counters.loads, at, bytes, u32::MAX),
            Area::Shared => count_shared(block, at, bytes, u32::MAX),
            _ => {}
        }
    }
}

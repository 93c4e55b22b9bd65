//! What lanes tell each other: `shfl`, `vote`, `match`, `redux` (PTX ISA 9.0, sections 9.7.9.6 and 9.7.13).

use super::mma::Lanes;
use super::warp::{Warp, each};
use crate::fault::{Fault, FaultKind, Result};
use crate::program::{Code, Function, Shuffle, Type, Vote};

pub fn run(warp: &mut Warp, code: &Code, mask: u32) -> Result<()> {
    match code {
        Code::Shuffle { how, d, p, a, b, c, mask: named } => {
            groups(&warp.value(*named), mask, "shfl")?;
            let (a, b, c) = (warp.value(*a), warp.value(*b), warp.value(*c));
            let (mut out, mut inside) = (a, [0; 32]);
            each(mask, |lane| {
                let (from, ok) = partner(*how, lane as i64, b[lane] as i64 & 31, c[lane]);
                out[lane] = if ok { a[from] } else { a[lane] };
                inside[lane] = ok.into();
            });
            warp.set(*d, mask, &out);
            if let Some(p) = p {
                warp.set(*p, mask, &inside);
            }
        }
        Code::Vote { how, d, a, negated, mask: named } => {
            let a = warp.value(*a);
            for members in groups(&warp.value(*named), mask, "vote")? {
                let mut yes = 0u32;
                each(members, |lane| yes |= u32::from((a[lane] & 1 == 1) != *negated) << lane);
                warp.set(*d, members, &[count(*how, yes, members); 32]);
            }
        }
        Code::Match { d, p, t, a, mask: named, all } => {
            let a = warp.value(*a).map(|x| x & (u64::MAX >> (64 - t.bits())));
            for members in groups(&warp.value(*named), mask, "match")? {
                equals(warp, (*d, *p, *all), &a, members);
            }
        }
        Code::Reduce { f, t, d, a, mask: named } => {
            let a = warp.value(*a);
            for members in groups(&warp.value(*named), mask, "redux")? {
                warp.set(*d, members, &[reduce(*f, *t, &a, members); 32]);
            }
        }
        _ => {}
    }
    Ok(())
}

/// The lanes that name the same lanes, group by group; a lane must name itself.
fn groups(named: &Lanes, mask: u32, what: &str) -> Result<Vec<u32>> {
    let (mut left, mut out) = (mask, Vec::new());
    while left != 0 {
        let name = named[left.trailing_zeros() as usize] as u32;
        let mut members = 0;
        each(left, |lane| members |= u32::from(named[lane] as u32 == name) << lane);
        if members & !name != 0 {
            let problem =
                format!("{what}.sync names lanes {name:#010x}, but lanes {members:#010x} are there");
            return Err(Fault::new(FaultKind::DivergentBarrier, problem));
        }
        out.push(members);
        left &= !members;
    }
    Ok(out)
}

fn count(how: Vote, yes: u32, members: u32) -> u64 {
    match how {
        Vote::All => u64::from(yes == members),
        Vote::Any => u64::from(yes != 0),
        Vote::Uniform => u64::from(yes == members || yes == 0),
        Vote::Ballot => yes.into(),
    }
}

fn equals(warp: &mut Warp, (d, p, all): (u32, Option<u32>, bool), a: &Lanes, members: u32) {
    let mut same = [0u64; 32];
    each(members, |lane| each(members, |other| same[lane] |= u64::from(a[other] == a[lane]) << other));
    let whole = same[members.trailing_zeros() as usize] == u64::from(members);
    if all {
        same = [if whole { members.into() } else { 0 }; 32];
    }
    warp.set(d, members, &same);
    if let Some(p) = p {
        warp.set(p, members, &[whole.into(); 32]);
    }
}

fn reduce(f: Function, t: Type, a: &Lanes, members: u32) -> u64 {
    let mut values = (0..32).filter(|lane| members >> lane & 1 == 1).map(|lane| a[lane]);
    let first = values.next().unwrap_or(0) & 0xffff_ffff;
    values.fold(first, |sum, x| super::alu::compute(f, t, t, sum, x, 0))
}

/// The lane that `shfl` reads, and whether it lies in the segment (section 9.7.9.6).
fn partner(how: Shuffle, lane: i64, b: i64, c: u64) -> (usize, bool) {
    let (clamp, segment) = (c as i64 & 31, (c >> 8) as i64 & 31);
    let (low, high) = (lane & segment, (lane & segment) | (clamp & !segment & 31));
    let (at, ok) = match how {
        Shuffle::Up => (lane - b, lane - b >= high),
        Shuffle::Down => (lane + b, lane + b <= high),
        Shuffle::Butterfly => (lane ^ b, (lane ^ b) <= high),
        Shuffle::Index => (low | (b & !segment & 31), (low | (b & !segment & 31)) <= high),
    };
    (at.clamp(0, 31) as usize, ok)
}

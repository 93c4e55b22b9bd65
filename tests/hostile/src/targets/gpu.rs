//! What the software driver of `tests/softcuda` takes: images with machine code and PTX, and PTX itself.

use super::texts;
use crate::budget::Budget;
use crate::{Desk, Target};

pub const FATBIN: Target =
    Target { name: "fatbin", read: fatbin, seeds: fatbin_seeds, budget: Budget::PARSED };
/// A device's memory is mapped as a whole; what else is taken are instructions.
pub const PTX: Target =
    Target { name: "ptx", read: ptx, seeds: ptx_seeds, budget: Budget { base: 64 << 20, times: 512 } };

fn fatbin(_: &Desk, bytes: &[u8]) {
    let _ = softcuda::ptx_of_fatbin(bytes);
}

fn fatbin_seeds() -> Vec<Vec<u8>> {
    let entry = |kind: u8, text: &str| {
        let mut entry = vec![0u8; 64];
        entry[0] = kind;
        entry[4] = 64;
        entry[8..16].copy_from_slice(&(text.len() as u64).to_le_bytes());
        entry[28] = 80;
        entry.extend(text.as_bytes());
        entry
    };
    let binary = |entries: &[Vec<u8>]| {
        let all = entries.concat();
        let mut binary = 0xBA55_ED50_u32.to_le_bytes().to_vec();
        binary.extend([1, 0, 16, 0]);
        binary.extend((all.len() as u64).to_le_bytes());
        binary.extend(all);
        binary
    };
    vec![binary(&[entry(1, SCALE)]), binary(&[entry(2, "machine code"), entry(1, SCALE)]), binary(&[])]
}

fn ptx(_: &Desk, bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = softcuda::Module::load(text, &softcuda::Memory::new(1 << 20));
}

/// x[i] *= a, in shared memory on the way, with what the parser has to know of: tables, vectors, initial content.
const SCALE: &str = ".version 8.0
.target sm_80
.address_size 64
.global .align 4 .f32 table[2] = {0f3F800000, 0f40000000};
.visible .entry scale(.param .u64 x, .param .f32 a, .param .u32 n)
.maxntid 128, 1, 1
{
.reg .pred %p<2>;
.reg .b32 %r<6>;
.reg .f32 %f<4>;
.reg .b64 %rd<5>;
.shared .align 4 .b8 held[512];
ld.param.u64 %rd1, [x];
ld.param.f32 %f1, [a];
ld.param.u32 %r1, [n];
mov.u32 %r2, %ctaid.x;
mov.u32 %r3, %tid.x;
mad.lo.s32 %r4, %r2, 128, %r3;
setp.ge.u32 %p1, %r4, %r1;
@%p1 bra $DONE;
cvta.to.global.u64 %rd2, %rd1;
mul.wide.u32 %rd3, %r4, 4;
add.s64 %rd4, %rd2, %rd3;
ld.global.f32 %f2, [%rd4];
mul.f32 %f3, %f2, %f1;
st.global.f32 [%rd4], %f3;
bar.sync 0;
$DONE:
ret;
}
";

fn ptx_seeds() -> Vec<Vec<u8>> {
    texts(&[SCALE, ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry e()\n{\nret;\n}\n"])
}

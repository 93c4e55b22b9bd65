//! How many thread-instructions a second an element-wise kernel runs at, with every check and without: median of five.

use softcuda::{Launch, Memory, Module, Options, launch};
use std::time::Instant;

const PTX: &str = ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry axpy(.param .u64 y, .param .u64 x, .param .f32 a)\n{\n\
    .reg .b32 %r<8>; .reg .f32 %f<8>; .reg .b64 %d<8>;\n\
    ld.param.u64 %d0, [y]; ld.param.u64 %d1, [x]; ld.param.f32 %f0, [a];\n\
    mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ntid.x; mov.u32 %r2, %tid.x; mad.lo.s32 %r3, %r0, %r1, %r2;\n\
    mul.wide.s32 %d2, %r3, 4; add.s64 %d3, %d0, %d2; add.s64 %d4, %d1, %d2;\n\
    ld.global.f32 %f1, [%d3]; ld.global.f32 %f2, [%d4]; fma.rn.f32 %f3, %f0, %f2, %f1; st.global.f32 [%d3], %f3;\nret;\n}\n";

fn main() {
    let (blocks, threads) = (4096u32, 256u32);
    let memory = Memory::new(1 << 28);
    let module = Module::load(PTX, &memory).expect("the PTX above is sound");
    let bytes = 4 * u64::from(blocks * threads);
    let [y, x] = [0, 1].map(|_| {
        let at = memory.alloc(bytes).expect("it fits");
        memory.write(at, &vec![0; bytes as usize]).expect("just allocated");
        at
    });
    let params = [&y.to_le_bytes()[..], &x.to_le_bytes(), &2f32.to_le_bytes()].concat();
    let l = Launch {
        kernel: &module.kernels["axpy"],
        grid: [blocks, 1, 1],
        block: [threads, 1, 1],
        dynamic_shared: 0,
        params: &params,
    };
    for (name, checks) in [("all checks and counters", true), ("without", false)] {
        let options = Options { checks, count: checks, threads: 1, max_instructions: None };
        let mut rates: Vec<f64> = (0..5)
            .map(|_| {
                let start = Instant::now();
                let counters = launch(&memory, &l, &options).expect("the kernel is sound");
                counters.thread_instructions as f64 / start.elapsed().as_secs_f64() / 1e6
            })
            .collect();
        rates.sort_by(f64::total_cmp);
        println!(
            "{name}: {:.0} million thread-instructions a second on one core ({:.0} to {:.0})",
            rates[2], rates[0], rates[4]
        );
    }
}

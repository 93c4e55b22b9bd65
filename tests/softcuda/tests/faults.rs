//! Planted faults of every kind are found and named.

mod common;

use common::{Arg::*, Gpu};
use softcuda::{FaultKind, PtxError};

/// A kernel `k` with parameters p (u64) and n (u32), and 64 words of shared memory `s`.
fn kernel(body: &str) -> Gpu {
    let head = ".version 9.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 p, .param .u32 n)\n{\n\
        .reg .pred %q<4>; .reg .b32 %r<8>; .reg .b64 %d<8>; .shared .align 4 .b8 s[256];\n\
        ld.param.u64 %d0, [p]; ld.param.u32 %r0, [n]; mov.u32 %r1, %tid.x; mul.wide.u32 %d1, %r1, 4; add.u64 %d2, %d0, %d1;\n\
        mov.u32 %r2, s; shl.b32 %r3, %r1, 2; add.u32 %r2, %r2, %r3;\n";
    Gpu::new(&format!("{head}{body}\nret;\n}}\n"))
}

fn fault(body: &str, threads: u32, words: usize) -> (FaultKind, String) {
    let gpu = kernel(body);
    let p = gpu.u32(&vec![1; words]);
    let found = gpu.launch("k", [1, 1, 1], threads, 0, &[Ptr(p), Int(3)]).expect_err(body);
    let text = found.to_string();
    assert!(text.starts_with("kernel k, block [0, 0, 0]") || found.kind == FaultKind::TooLong, "{text}");
    (found.kind, text)
}

#[test]
fn the_kernel_around_them_is_sound() {
    let gpu =
        kernel("st.global.u32 [%d2], %r1; st.shared.u32 [%r2], %r1; bar.sync 0; ld.shared.u32 %r4, [s+4];");
    let p = gpu.u32(&[0; 64]);
    gpu.launch("k", [1, 1, 1], 64, 0, &[Ptr(p), Int(3)]).unwrap();
}

#[test]
fn out_of_bounds_global() {
    let (kind, text) = fault("st.global.u32 [%d2], %r1;", 64, 40);
    assert_eq!(kind, FaultKind::OutOfBounds);
    assert!(text.contains("from thread [32, 0, 0] on, PTX line 9"), "{text}");
    assert!(text.contains("byte 160 of an allocation of 160"), "{text}");
}

#[test]
fn out_of_bounds_shared() {
    let (kind, text) = fault("st.shared.u32 [%r2], %r1;", 96, 1);
    assert_eq!(kind, FaultKind::OutOfBounds);
    assert!(text.contains("4 bytes at byte 256 of 256 bytes of shared memory"), "{text}");
}

#[test]
fn misaligned() {
    assert_eq!(fault("ld.global.u32 %r4, [%d0+2];", 32, 4).0, FaultKind::Misaligned);
    assert_eq!(fault("st.shared.u32 [%r2+1], %r1;", 32, 4).0, FaultKind::Misaligned);
}

#[test]
fn never_written() {
    let gpu = kernel("ld.global.u32 %r4, [%d2];");
    let p = gpu.memory.alloc(256).unwrap();
    let found = gpu.launch("k", [1, 1, 1], 32, 0, &[Ptr(p), Int(0)]).unwrap_err();
    assert_eq!(found.kind, FaultKind::UninitialisedGlobal);
    assert_eq!(fault("ld.shared.u32 %r4, [%r2];", 32, 1).0, FaultKind::UninitialisedShared);
    let local = ".local .align 4 .b8 l[16]; mov.u64 %d3, l; ld.local.u32 %r4, [%d3];";
    assert_eq!(fault(local, 32, 1).0, FaultKind::UninitialisedLocal);
}

#[test]
fn shared_races() {
    // every thread writes its own word and reads its neighbour's from another warp
    let (kind, text) = fault(
        "st.shared.u32 [%r2], %r1; xor.b32 %r5, %r3, 128; mov.u32 %r6, s; add.u32 %r6, %r6, %r5; ld.shared.u32 %r4, [%r6];",
        64,
        1,
    );
    assert_eq!(kind, FaultKind::UninitialisedShared, "{text}");
    let (kind, text) = fault("shr.u32 %r5, %r1, 5; st.shared.u32 [s], %r5;", 64, 1);
    assert_eq!(kind, FaultKind::SharedRace);
    assert!(text.contains("which warp 0 wrote with no barrier between"), "{text}");
    let read_then_write = "setp.lt.u32 %q0, %r1, 32; @%q0 st.shared.u32 [%r2], %r1; bar.sync 0; ld.shared.u32 %r4, [s]; @!%q0 st.shared.u32 [s], %r1;";
    assert_eq!(fault(read_then_write, 64, 1).0, FaultKind::SharedRace);
}

/// Lane i reads what lane i^1 wrote, or writes where that one reads, in one warp.
const NEIGHBOUR: &str = "xor.b32 %r5, %r3, 4; mov.u32 %r6, s; add.u32 %r6, %r6, %r5;";

#[test]
fn shared_races_inside_a_warp() {
    let read = format!("{NEIGHBOUR} st.shared.u32 [%r2], %r1; ld.shared.u32 %r4, [%r6];");
    let (kind, text) = fault(&read, 32, 1);
    assert_eq!(kind, FaultKind::SharedRace);
    assert!(text.contains("which lane 1 of its warp wrote with no bar.warp.sync between"), "{text}");
    let write = format!(
        "{NEIGHBOUR} st.shared.u32 [%r2], %r1; bar.warp.sync -1; ld.shared.u32 %r4, [%r2]; st.shared.u32 [%r6], %r1;"
    );
    let (kind, text) = fault(&write, 32, 1);
    assert_eq!(kind, FaultKind::SharedRace);
    assert!(text.contains("which another lane of its warp read"), "{text}");
    // in one instruction
    let (kind, text) = fault("st.shared.u32 [s], %r1;", 32, 1);
    assert_eq!(kind, FaultKind::SharedRace);
    assert!(text.contains("which lane 0 of its warp wrote"), "{text}");
    let copies = "cp.async.ca.shared.global [%r2], [%d2], 4; cp.async.wait_all; xor.b32 %r5, %r3, 4; mov.u32 %r6, s;\
        add.u32 %r6, %r6, %r5; ld.shared.u32 %r4, [%r6];";
    assert_eq!(fault(copies, 32, 32).0, FaultKind::SharedRace);
}

#[test]
fn what_is_no_race_inside_a_warp() {
    let synced = format!("{NEIGHBOUR} st.shared.u32 [%r2], %r1; bar.warp.sync -1; ld.shared.u32 %r4, [%r6];");
    let again = format!("{synced} bar.warp.sync -1; st.shared.u32 [%r6], %r1;");
    let block = again.replace("bar.warp.sync -1", "bar.sync 0");
    // the same value by all lanes, and what is a lane's own
    let flag = "mov.u32 %r5, 7; st.shared.u32 [s], %r5;";
    let own = "st.shared.u32 [%r2], %r1; ld.shared.u32 %r4, [%r2]; st.shared.u32 [%r2], %r0;";
    for body in [&synced, &again, &block, flag, own] {
        let gpu = kernel(body);
        let p = gpu.u32(&[0; 32]);
        gpu.launch("k", [1, 1, 1], 32, 0, &[Ptr(p), Int(3)])
            .unwrap_or_else(|fault| panic!("{body}: {fault}"));
    }
}

#[test]
fn a_copy_read_before_it_is_waited_for() {
    let body = "cp.async.ca.shared.global [%r2], [%d2], 4; cp.async.commit_group; ld.shared.u32 %r4, [%r2];";
    let (kind, text) = fault(body, 32, 32);
    assert_eq!(kind, FaultKind::UninitialisedShared);
    assert!(text.contains("a cp.async is still writing"), "{text}");
    let group = body.replace("ld.shared", "cp.async.wait_group 0; ld.shared");
    let all = body.replace("cp.async.commit_group", "cp.async.wait_all");
    for waited in [group, all] {
        let gpu = kernel(&waited);
        let p = gpu.u32(&[7; 32]);
        gpu.launch("k", [1, 1, 1], 32, 0, &[Ptr(p), Int(0)]).unwrap();
    }
}

#[test]
fn divergent_barrier() {
    let body = "setp.lt.u32 %q0, %r1, 7; @%q0 bra SKIP; bar.sync 0; SKIP:";
    assert_eq!(fault(body, 32, 1).0, FaultKind::DivergentBarrier);
    let shuffle = "setp.lt.u32 %q0, %r1, 7; @%q0 bra SKIP; shfl.sync.bfly.b32 %r4, %r1, 1, 31, 127; SKIP:";
    assert_eq!(fault(shuffle, 32, 1).0, FaultKind::DivergentBarrier);
}

#[test]
fn use_after_free_and_bad_frees() {
    let gpu = kernel("st.global.u32 [%d2], %r1;");
    let p = gpu.u32(&[0; 32]);
    gpu.memory.free(p).unwrap();
    assert_eq!(
        gpu.launch("k", [1, 1, 1], 32, 0, &[Ptr(p), Int(0)]).unwrap_err().kind,
        FaultKind::UseAfterFree
    );
    assert_eq!(gpu.memory.free(p).unwrap_err().kind, FaultKind::BadFree);
    assert_eq!(gpu.memory.free(p + 4).unwrap_err().kind, FaultKind::BadFree);
}

#[test]
fn what_is_not_known_is_named() {
    let (kind, text) = fault("wgmma.fence.sync.aligned %r4;", 32, 1);
    assert_eq!(kind, FaultKind::UnknownInstruction);
    assert!(text.contains("PTX line 9") && text.contains("wgmma.fence.sync.aligned is not known"), "{text}");
    let memory = softcuda::Memory::new(1 << 20);
    let PtxError { line, message } =
        softcuda::Module::load(".version 9.0\n.nonsense\n", &memory).err().unwrap();
    assert_eq!((line, message.contains(".nonsense")), (2, true));
}

#[test]
fn trap_endless_and_too_many_threads() {
    assert_eq!(fault("trap;", 32, 1).0, FaultKind::Trap);
    let gpu = kernel("AGAIN: bra AGAIN;");
    let p = gpu.u32(&[0]);
    let options = softcuda::Options { max_instructions: Some(1000), ..softcuda::Options::default() };
    let mut params = p.to_le_bytes().to_vec();
    params.extend([0; 4]);
    let kernel = &gpu.module.kernels["k"];
    let launch =
        |block| softcuda::Launch { kernel, grid: [1, 1, 1], block, dynamic_shared: 0, params: &params };
    assert_eq!(
        softcuda::launch(&gpu.memory, &launch([32, 1, 1]), &options).unwrap_err().kind,
        FaultKind::TooLong
    );
    assert_eq!(
        softcuda::launch(&gpu.memory, &launch([1025, 1, 1]), &options).unwrap_err().kind,
        FaultKind::BadLaunch
    );
}

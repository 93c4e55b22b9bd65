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
    let (kind, text) = fault("st.shared.u32 [s], %r1;", 64, 1);
    assert_eq!(kind, FaultKind::SharedRace);
    assert!(text.contains("which warp 0 wrote with no barrier between"), "{text}");
    let read_then_write = "setp.lt.u32 %q0, %r1, 32; @%q0 st.shared.u32 [%r2], %r1; bar.sync 0; ld.shared.u32 %r4, [s]; @!%q0 st.shared.u32 [s], %r1;";
    assert_eq!(fault(read_then_write, 64, 1).0, FaultKind::SharedRace);
}

#[test]
fn a_copy_read_before_it_is_waited_for() {
    let body = "cp.async.ca.shared.global [%r2], [%d2], 4; cp.async.commit_group; ld.shared.u32 %r4, [%r2];";
    let (kind, text) = fault(body, 32, 32);
    assert_eq!(kind, FaultKind::UninitialisedShared);
    assert!(text.contains("a cp.async is still writing"), "{text}");
    let gpu = kernel(&body.replace("ld.shared", "cp.async.wait_group 0; ld.shared"));
    let p = gpu.u32(&[7; 32]);
    gpu.launch("k", [1, 1, 1], 32, 0, &[Ptr(p), Int(0)]).unwrap();
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

//! Every operation of the CUDA backend, in both dtypes, against the f64 reference, on the CUDA driver in software with all its
//! checks: out-of-bounds, misaligned and uninitialised accesses, races, divergent barriers, leaks.

mod conformance;
#[path = "common/softcuda.rs"]
mod softcuda;

use conformance::Suite;
use half::bf16;
use pose_engine::backend::Backend;
use pose_engine::backend::cuda::Cuda;

#[test]
fn bf16_agrees_with_the_reference() {
    if softcuda::inside("bf16_agrees_with_the_reference") {
        Suite::new(&Cuda::<bf16>::new(0).unwrap(), "cuda bf16").run();
    }
}

#[test]
fn f32_agrees_with_the_reference() {
    if softcuda::inside("f32_agrees_with_the_reference") {
        Suite::new(&Cuda::<f32>::new(0).unwrap(), "cuda f32").run();
    }
}

/// The capability of cards with 99 KiB of shared memory for a block, where heads of 128 go in smaller tiles and those of 256 on
/// plain multiply-adds.
#[test]
fn attention_agrees_where_shared_memory_is_short() {
    let here = [("SOFTCUDA_CAPABILITY", std::path::Path::new("8.6"))];
    if softcuda::inside_with("attention_agrees_where_shared_memory_is_short", &here)
        == softcuda::Where::Inside
    {
        let cuda = Cuda::<bf16>::new(0).unwrap();
        let mut suite = Suite::new(&cuda, "cuda bf16, sm_86");
        conformance::attention::all(&mut suite);
        conformance::kv::all(&mut suite);
    }
}

#[test]
fn short_buffers_are_refused_by_name() {
    if softcuda::inside("short_buffers_are_refused_by_name") {
        let cuda = Cuda::<f32>::new(0).unwrap();
        let (mut y, gate, up) = (cuda.alloc(8).unwrap(), cuda.alloc(8).unwrap(), cuda.alloc(7).unwrap());
        let refusal = cuda.swiglu(&mut y, &gate, &up, 8).unwrap_err().to_string();
        assert_eq!(refusal, "device cuda:0: swiglu: up has 7 elements, 8 are needed");
    }
}

//! cuBLAS, to be timed beside this engine's products.

use cudarc::cublas::sys::{self, cublasStatus_t};
use cudarc::driver::sys::CUstream;
use pose_engine::backend::MatmulShape;
use pose_engine::backend::cuda::CudaFloat;
use std::cell::Cell;
use std::ffi::c_int;
use std::ptr::{from_ref, null_mut};

thread_local! {
    /// The stream that the handle was made for, and the handle.
    static OPENED: Cell<(CUstream, sys::cublasHandle_t)> = const { Cell::new((null_mut(), null_mut())) };
}

fn done(status: cublasStatus_t) {
    assert!(status == cublasStatus_t::CUBLAS_STATUS_SUCCESS, "cuBLAS: {status:?}");
}

fn handle(stream: CUstream) -> sys::cublasHandle_t {
    let (of, handle) = OPENED.get();
    if of == stream {
        return handle;
    }
    let mut handle = null_mut();
    // SAFETY: a pointer to a handle; the stream lives as long as the backend whose buffers are multiplied.
    unsafe {
        assert!(sys::is_culib_present(), "libcublas.so is not found");
        done(sys::cublasCreate_v2(&mut handle));
        done(sys::cublasSetStream_v2(handle, stream.cast()));
    }
    OPENED.set((stream, handle));
    handle
}

/// y[m,n] = x[m,k]·w[n,k]ᵀ, row-major, at device addresses [y, x, w]. cuBLAS has columns where we have rows: yᵀ = w·xᵀ.
pub fn nt<E: CudaFloat>(stream: CUstream, [y, x, w]: [u64; 3], s: MatmulShape) {
    let dtype =
        if E::NAME == "bf16" { sys::cudaDataType_t::CUDA_R_16BF } else { sys::cudaDataType_t::CUDA_R_32F };
    let [m, n, k] = [s.m, s.n, s.k].map(|size| c_int::try_from(size).expect("a size that cuBLAS takes"));
    let (one, zero) = (1f32, 0f32);
    // SAFETY: the addresses are those of whole matrices of these sizes, the numbers outlive the call.
    unsafe {
        done(sys::cublasGemmEx(
            handle(stream),
            sys::cublasOperation_t::CUBLAS_OP_T,
            sys::cublasOperation_t::CUBLAS_OP_N,
            n,
            m,
            k,
            from_ref(&one).cast(),
            w as *const _,
            dtype,
            k,
            x as *const _,
            dtype,
            k,
            from_ref(&zero).cast(),
            y as *mut _,
            dtype,
            n,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        ));
    }
}

// The optimizer: global norm of the gradients, and AdamW (1711.05101) over all parameters in one launch.
//
//   sum_squares  partial[b] = Σ x[i]² over the b-th of SUM_BLOCKS equal runs                  partial (=) [SUM_BLOCKS] f64
//   adamw        g = grad·grad_scale;  m = β1·m + (1−β1)·g;  v = β2·v + (1−β2)·g²
//                p −= lr·(m̂/(√v̂ + eps) + decay·p),  m̂ = m/(1−β1^step), v̂ = v/(1−β2^step);  param = p rounded
//                p is `master` where there is one, else `param`; all but param f32; m, v, master, param in place
//
// The host sums the partial sums, in order. Launch: sum_squares: SUM_BLOCKS blocks of SUM_THREADS. adamw: ADAMW_THREADS, one block
// for each run of ADAMW_RUN elements of a tensor; `runs` says which tensor and which run each block has.
#include "common.cuh"
#include "adam.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

extern "C" __global__ void __launch_bounds__(SUM_THREADS) sum_squares(double* partial, const float* x, int64_t len) {
    __shared__ double slots[SUM_THREADS / 32];
    const int64_t run = (len + SUM_BLOCKS - 1) / SUM_BLOCKS + 3 & ~int64_t(3);  // 16 bytes start every run
    const int64_t first = run * blockIdx.x, end = min(len, first + run);
    double sum = 0.;
    int64_t i = first + threadIdx.x * 4;
    for (; i + 3 < end; i += SUM_THREADS * 4) {
        const Vec<float> v = load_vec(x + i);
#pragma unroll
        for (int j = 0; j < 4; j++) sum += double(v.x[j]) * double(v.x[j]);
    }
    for (; i < end; i++) sum += double(x[i]) * double(x[i]);  // the one thread that has the last few
#pragma unroll
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(FULL_WARP, sum, d);
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int w = 1; w < SUM_THREADS / 32; w++) sum += slots[w];
    partial[blockIdx.x] = sum;
}

// One parameter tensor; the same layout in Rust (backend/cuda).
template <typename T>
struct AdamTensor {
    T* param;
    float* master;  // null: param is the master
    float* m;
    float* v;
    const float* grad;
    int64_t len;
    float decay;
    float unused;
};
template <typename T>
__device__ __forceinline__ void adamw(const AdamTensor<T>* tensors, const AdamRun* runs, const AdamStep& s) {
    const AdamRun run = runs[blockIdx.x];
    const AdamTensor<T> t = tensors[run.tensor];
    const int64_t first = int64_t(run.run) * ADAMW_RUN, end = min(t.len, first + ADAMW_RUN);
    int64_t i = first + threadIdx.x * 4;
    for (; i + 3 < end; i += ADAMW_THREADS * 4) {
        Vec<float> p = t.master ? load_vec(t.master + i) : load_four(t.param + i);
        Vec<float> m = load_vec(t.m + i), v = load_vec(t.v + i);
        const Vec<float> grad = load_vec(t.grad + i);
#pragma unroll
        for (int j = 0; j < 4; j++) p.x[j] = adam_one(p.x[j], m.x[j], v.x[j], grad.x[j], t.decay, s);
        store_vec(t.m + i, m);
        store_vec(t.v + i, v);
        if (t.master) store_vec(t.master + i, p);
        store_four(t.param + i, p);
    }
    for (; i < end; i++) {  // the one thread that has the last few
        const float p = adam_one(t.master ? t.master[i] : to_float(t.param[i]), t.m[i], t.v[i], t.grad[i], t.decay, s);
        if (t.master) t.master[i] = p;
        t.param[i] = from_float<T>(p);
    }
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRY(T, name)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(ADAMW_THREADS)                                                           \
        adamw_##name(const AdamTensor<T>* tensors, const AdamRun* runs, AdamStep step) {                                  \
        adamw(tensors, runs, step);                                                                                       \
    }
ENTRY(bf16, bf16)
ENTRY(float, f32)

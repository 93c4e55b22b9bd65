// matmul_nt for a few rows of x, as in decoding: bound by reading w once, so w goes from memory straight to the tensor cores.
//
//   matmul_few  y[m,n] = x[m,k]·w[n,k]ᵀ (+ bias[n]) (+ residual[m,n])    y (=) bf16, or f32 in matmul_few_f32out;  m ≤ MATMUL_FEW_ROWS
//
// w is the left operand of mma.sync, 16 of its rows, and x the right one, 8 columns. A sum does not care in which order its terms
// come, so the depths 8t .. 8t+7 that a lane loads by one access stand for the depths 2t, 2t+1, 2t+8, 2t+9 of two products: both
// operands the same way. Eight warps take slices of 32 in depth in turn, and their sums are added in order.
//
// `k` must be divisible by 8. Launch: MATMUL_FEW_THREADS; grid ⌈n/MATMUL_FEW_OUTPUTS⌉.
#include "epilogue.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernel

template <typename Out>
__device__ __forceinline__ void few(Epilogue<Out> out, const bf16* x, const bf16* w, int depth) {
    constexpr int WARPS = MATMUL_FEW_THREADS / 32, SLICE = 32, BLOCKS = MATMUL_FEW_OUTPUTS / 16;
    static_assert(MATMUL_FEW_ROWS * MATMUL_FEW_OUTPUTS == MATMUL_FEW_THREADS, "each thread adds up one sum");
    __shared__ float parts[WARPS][MATMUL_FEW_ROWS][MATMUL_FEW_OUTPUTS];
    const int warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4, quarter = threadIdx.x % 4;
    const int output0 = blockIdx.x * MATMUL_FEW_OUTPUTS;
    const auto row_of = [&](const bf16* p, int row, int rows) { return p + int64_t(min(row, rows - 1)) * depth + 8 * quarter; };
    const bf16* left[BLOCKS][2];  // the two rows of w that the lane has in each block of 16
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int half = 0; half < 2; half++) left[b][half] = row_of(w, output0 + 16 * b + 8 * half + group, out.columns);
    const bf16* const right = row_of(x, group, out.rows);
    const auto load = [](const bf16* p, bool there) { return there ? *reinterpret_cast<const uint4*>(p) : make_uint4(0, 0, 0, 0); };
    float sums[BLOCKS][4] = {};
#pragma unroll 2
    for (int k = warp * SLICE; k < depth; k += WARPS * SLICE) {
        const bool there = k + 8 * quarter < depth;
        const uint4 c = load(right + k, there && group < out.rows);
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            const uint4 upper = load(left[b][0] + k, there), lower = load(left[b][1] + k, there);
            const uint32_t even[4] = {upper.x, lower.x, upper.y, lower.y}, odd[4] = {upper.z, lower.z, upper.w, lower.w};
            mma_bf16(sums[b], even, c.x, c.y);
            mma_bf16(sums[b], odd, c.z, c.w);
        }
    }
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int i = 0; i < 4; i++) parts[warp][2 * quarter + i % 2][16 * b + group + i / 2 * 8] = sums[b][i];
    __syncthreads();
    const int row = threadIdx.x / MATMUL_FEW_OUTPUTS, i = threadIdx.x % MATMUL_FEW_OUTPUTS, column = output0 + i;
    if (row >= out.rows || column >= out.columns) return;
    float sum = 0.f;
#pragma unroll
    for (int p = 0; p < WARPS; p++) sum += parts[p][row][i];
    const int64_t at = int64_t(row) * out.columns + column;
    out.c[at] = from_float<Out>(out.one(sum, at, column));
}

// ---------------------------------------------------------------------------------------------------------- entry points

extern "C" __global__ void __launch_bounds__(MATMUL_FEW_THREADS)
    matmul_few_bf16(bf16* y, const bf16* x, const bf16* w, const bf16* bias, const bf16* residual, int m, int n, int k) {
    few(Epilogue<bf16>{y, residual, bias, m, n}, x, w, k);
}
extern "C" __global__ void __launch_bounds__(MATMUL_FEW_THREADS)
    matmul_few_f32out_bf16(float* y, const bf16* x, const bf16* w, int m, int n, int k) {
    few(Epilogue<float>{y, nullptr, nullptr, m, n}, x, w, k);
}

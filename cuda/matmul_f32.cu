// The three products of a linear layer in f32 on plain multiply-adds: for checking, any size. Names and sizes as in matmul.cu.
//
//   matmul_nt_f32  y[m,n]  = x[m,k]·w[n,k]ᵀ (+ bias[n]) (+ residual[m,n])
//   matmul_nn_f32  dx[m,k] (= or +=) dy[m,n]·w[n,k]
//   matmul_tn_f32  dw[n,k] += dy[m,n]ᵀ·x[m,k]
//
// A block makes MATMUL_F32_M x MATMUL_F32_N of C, each of 16 x 16 threads 4 x 4 of it; slices of MATMUL_F32_K of the depth lie in
// shared memory with the depth down, so that a thread's four rows and four columns are one 16-byte read each.
//
// Launch: MATMUL_F32_THREADS; grid (⌈columns/MATMUL_F32_N⌉, ⌈rows/MATMUL_F32_M⌉).
#include "common.cuh"

// ----------------------------------------------------------------------------------------------------------- the kernel

constexpr int STRIDE = MATMUL_F32_M + 4;  // 16-byte reads stay aligned, and stores of a column fall into different banks
static_assert(MATMUL_F32_M == MATMUL_F32_N, "both operands have slices of one shape");
using Slice = float[MATMUL_F32_K][STRIDE];

// Slice [k, k + MATMUL_F32_K) of rows [first, first + MATMUL_F32_M); zero beyond the edges. DEEP: the depth runs along the rows
// in memory, p[extent,depth]; else down the columns, p[depth,extent].
template <bool DEEP>
__device__ __forceinline__ void fetch(Slice& slice, const float* p, int first, int extent, int k, int depth) {
#pragma unroll 1
    for (int i = threadIdx.x; i < MATMUL_F32_K * MATMUL_F32_M; i += MATMUL_F32_THREADS) {
        const int deep = DEEP ? i % MATMUL_F32_K : i / MATMUL_F32_M, along = DEEP ? i / MATMUL_F32_K : i % MATMUL_F32_M;
        const bool inside = first + along < extent && k + deep < depth;
        const int64_t at = DEEP ? int64_t(first + along) * depth + k + deep : int64_t(k + deep) * extent + first + along;
        slice[deep][along] = inside ? p[at] : 0.f;
    }
}

template <bool A_DEEP, bool B_DEEP>
__device__ __forceinline__ void product(float* c, const float* a, const float* b, const float* bias, const float* old, int rows,
                                        int columns, int depth) {
    __shared__ __align__(16) Slice a_slice, b_slice;
    const int row0 = blockIdx.y * MATMUL_F32_M, column0 = blockIdx.x * MATMUL_F32_N;
    const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    float sums[4][4] = {};
    for (int k = 0; k < depth; k += MATMUL_F32_K) {
        fetch<A_DEEP>(a_slice, a, row0, rows, k, depth);
        fetch<B_DEEP>(b_slice, b, column0, columns, k, depth);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < MATMUL_F32_K; i++) {
            const Vec<float> x = load_vec(&a_slice[i][row]), y = load_vec(&b_slice[i][column]);
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[r][j] += x.x[r] * y.x[j];
        }
        __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        const int64_t at = int64_t(row0 + row + r) * columns + column0 + column;
        if (row0 + row + r >= rows) return;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            if (column0 + column + j >= columns) break;
            float sum = sums[r][j];
            if (bias) sum += bias[column0 + column + j];
            if (old) sum += old[at + j];
            c[at + j] = sum;
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- entry points

extern "C" __global__ void __launch_bounds__(MATMUL_F32_THREADS)
    matmul_nt_f32(float* y, const float* x, const float* w, const float* bias, const float* residual, int m, int n, int k) {
    product<true, true>(y, x, w, bias, residual, m, n, k);
}
extern "C" __global__ void __launch_bounds__(MATMUL_F32_THREADS)
    matmul_nn_f32(float* dx, const float* dy, const float* w, int accumulate, int m, int n, int k) {
    product<true, false>(dx, dy, w, nullptr, accumulate ? dx : nullptr, m, k, n);
}
extern "C" __global__ void __launch_bounds__(MATMUL_F32_THREADS)
    matmul_tn_f32(float* dw, const float* dy, const float* x, int m, int n, int k) {
    product<false, false>(dw, dy, x, nullptr, dw, n, k, m);
}

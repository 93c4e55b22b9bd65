// What mma.sync and fma can do at most: the yardstick of the benchmarks, and the instructions of the kernels. (On sm_90 and newer there
// are asynchronous products that go faster than mma.sync; no kernel here uses them.) Every warp keeps PEAK_CHAINS sums going that do not
// wait for each other, and touches no memory.
//
//   peak_mma_bf16  rounds·PEAK_CHAINS times m16n8k16 (4096 FLOPs) in each warp
//   peak_fma_f32   rounds·PEAK_CHAINS multiply-adds (2 FLOPs) in each thread
//                  out [1] f32: written only in a case that does not occur, so that the sums are not left out
//
// Launch: PEAK_BLOCKS blocks of PEAK_THREADS.
#include "common.cuh"

// ---------------------------------------------------------------------------------------------------------- entry points

extern "C" __global__ void __launch_bounds__(PEAK_THREADS) peak_mma_bf16(float* out, int rounds) {
    const uint32_t ones = 0x3f803f80u, a[4] = {ones, ones, ones, ones};
    float sums[PEAK_CHAINS][4] = {};
#pragma unroll 1
    for (int r = 0; r < rounds; r++)
#pragma unroll
        for (int c = 0; c < PEAK_CHAINS; c++) mma_bf16(sums[c], a, ones, ones);
    float all = 0.f;
#pragma unroll
    for (int c = 0; c < PEAK_CHAINS; c++) all += sums[c][0] + sums[c][1] + sums[c][2] + sums[c][3];
    if (all < 0.f) *out = all;
}

extern "C" __global__ void __launch_bounds__(PEAK_THREADS) peak_fma_f32(float* out, int rounds) {
    const float x = 1.f + threadIdx.x;
    float sums[PEAK_CHAINS];
#pragma unroll
    for (int c = 0; c < PEAK_CHAINS; c++) sums[c] = c;
#pragma unroll 1
    for (int r = 0; r < rounds; r++)
#pragma unroll
        for (int c = 0; c < PEAK_CHAINS; c++) sums[c] = fmaf(sums[c], x, 1.f);
    float all = 0.f;
#pragma unroll
    for (int c = 0; c < PEAK_CHAINS; c++) all += sums[c];
    if (all < 0.f) *out = all;
}

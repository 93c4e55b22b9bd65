// Rows of unit length, as the head of Baichuan2 has them (2309.10305), and their gradient in place.
//
//   unit_rows           y[r,i] = x[r,i]·scale[r],  scale[r] = 1/max(sqrt(Σ_i x[r,i]²), 1e-12)
//                       y (=), x [rows,width] T; scale (=) [rows] f32
//   unit_rows_backward  d[r,i] = scale[r]·(d[r,i] − y[r,i]·Σ_j d[r,j]·y[r,j]);  d [rows,width] f32, in place
//
// Launch: ROW_THREADS threads, any grid, it strides over rows. Dynamic shared memory: forward width·sizeof(T), backward
// 8·width: a row stays on chip between the two passes over it. `width` divisible by 16 bytes of T (backward:
// by 4) goes by 16-byte accesses, any other by single elements.
#include "rows.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

template <typename T, int V>
__device__ __forceinline__ void unit_rows(T* y, float* scale, const T* x, int rows, int width) {
    extern __shared__ uint4 memory[];
    __shared__ float slots[ROW_THREADS / 32];
    T* const row = reinterpret_cast<T*>(memory);  // [width]
    using L = Lane<T, V>;
    for (int r = blockIdx.x; r < rows; r += gridDim.x) {
        float squares = 0.f;
        each_vector<V>(width, [&](int i) {  // a thread reads back only what it stored itself: no barrier
            const Vec<T> v = L::load(x + int64_t(r) * width + i);
#pragma unroll
            for (int j = 0; j < V; j++) squares += v.x[j] * v.x[j];
            L::store(row + i, v);
        });
        const float factor = 1.f / fmaxf(sqrtf(block_sum<ROW_THREADS>(squares, slots)), 1e-12f);
        if (threadIdx.x == 0) scale[r] = factor;
        each_vector<V>(width, [&](int i) {
            Vec<T> v = L::load(row + i);
#pragma unroll
            for (int j = 0; j < V; j++) v.x[j] *= factor;
            L::store(y + int64_t(r) * width + i, v);
        });
    }
}

template <typename T, int V>
__device__ __forceinline__ void unit_rows_backward(float* d, const T* y, const float* scale, int rows, int width) {
    extern __shared__ uint4 memory[];
    __shared__ float slots[ROW_THREADS / 32];
    float* const slopes = reinterpret_cast<float*>(memory);  // [width]
    float* const unit = slopes + width;                      // [width]
    using L = Lane<float, V>;
    for (int r = blockIdx.x; r < rows; r += gridDim.x) {
        float* const d_row = d + int64_t(r) * width;
        const T* const y_row = y + int64_t(r) * width;
        float along = 0.f;
#pragma unroll 2  // in f32 more at a time would not fit in registers on sm_80
        for (int i = threadIdx.x * V; i < width; i += ROW_THREADS * V) {
            const Vec<float> u = load_some<V>(y_row + i), v = L::load(d_row + i);
#pragma unroll
            for (int j = 0; j < V; j++) along += v.x[j] * u.x[j];
            L::store(slopes + i, v);
            L::store(unit + i, u);
        }
        along = block_sum<ROW_THREADS>(along, slots);
        const float factor = scale[r];
        each_vector<V>(width, [&](int i) {
            const Vec<float> u = L::load(unit + i);
            Vec<float> v = L::load(slopes + i);
#pragma unroll
            for (int j = 0; j < V; j++) v.x[j] = factor * (v.x[j] - u.x[j] * along);
            L::store(d_row + i, v);
        });
    }
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRIES(T, name)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS)                                                             \
        unit_rows_##name(T* y, float* scale, const T* x, int rows, int width) {                                           \
        if (width % Vec<T>::N == 0) unit_rows<T, Vec<T>::N>(y, scale, x, rows, width);                                    \
        else unit_rows<T, 1>(y, scale, x, rows, width);                                                                   \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(ROW_THREADS)                                                             \
        unit_rows_backward_##name(float* d, const T* y, const float* scale, int rows, int width) {                        \
        if (width % 4 == 0) unit_rows_backward<T, 4>(d, y, scale, rows, width);                                           \
        else unit_rows_backward<T, 1>(d, y, scale, rows, width);                                                          \
    }
ENTRIES(bf16, bf16)
ENTRIES(float, f32)

// Token embedding, and the scatter-add that undoes it.
//
//   embed           y[t,:] = table[ids[t],:]          y [tokens,width] T (=), table [vocab,width] T, ids [tokens] u32 < vocab
//   embed_backward  d_table[ids[t],:] += dy[t,:]      d_table [vocab,width] f32 (+=), dy [tokens,width] T; t ascending
//
// Launch: embed: any grid of ELEMENTWISE_THREADS, it strides. embed_backward: grid (⌈width / (V·EMBED_BACKWARD_THREADS)⌉,
// EMBED_BACKWARD_SHARES), V = 16 bytes of T. `width` divisible by V goes by 16-byte accesses, any other by single elements.
#include "common.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

template <typename T>
__device__ __forceinline__ void embed(T* y, const T* table, const uint32_t* ids, int tokens, int width) {
    constexpr int V = Vec<T>::N;
    const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
    if (width % V == 0) {
        const int vectors = width / V;
        for (int64_t i = first; i < int64_t(tokens) * vectors; i += step) {
            const int t = i / vectors, c = i % vectors;
            store_vec(y + i * V, load_vec(table + int64_t(ids[t]) * width + c * V));
        }
    } else {
        for (int64_t i = first; i < int64_t(tokens) * width; i += step)
            y[i] = table[int64_t(ids[i / width]) * width + i % width];
    }
}

// y[t,:] = table[ids[t],:]  =>  d_table[ids[t],:] += dy[t,:]. A thread owns some columns of the table's rows whose number is
// its share; it goes through the tokens in order, so equal ids are summed in order and no two threads meet.
template <typename T>
__device__ __forceinline__ void add_rows(float* d_table, const T* dy, const uint32_t* ids, int tokens, int width) {
    constexpr int V = Vec<T>::N;
    const int column = (blockIdx.x * EMBED_BACKWARD_THREADS + threadIdx.x) * V;
    if (column >= width) return;
    for (int t = 0; t < tokens; t++) {
        const uint32_t id = ids[t];
        if (id % EMBED_BACKWARD_SHARES != blockIdx.y) continue;
        float* sum = d_table + int64_t(id) * width + column;
        const T* row = dy + int64_t(t) * width + column;
        const Vec<T> d = load_vec(row);
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            Vec<float> s = load_vec(sum + i);
#pragma unroll
            for (int j = 0; j < 4; j++) s.x[j] += d.x[i + j];
            store_vec(sum + i, s);
        }
    }
}

template <typename T>
__device__ __forceinline__ void embed_backward(float* d_table, const T* dy, const uint32_t* ids, int tokens, int width) {
    constexpr int V = Vec<T>::N;
    if (width % V == 0) {
        add_rows(d_table, dy, ids, tokens, width);
    } else {
        // fewer columns for each thread: it takes V of them one after the other
        for (int part = 0; part < V; part++) {
            const int column = (blockIdx.x * V + part) * EMBED_BACKWARD_THREADS + threadIdx.x;
            if (column >= width) return;
            for (int t = 0; t < tokens; t++) {
                const uint32_t id = ids[t];
                if (id % EMBED_BACKWARD_SHARES == blockIdx.y)
                    d_table[int64_t(id) * width + column] += to_float(dy[int64_t(t) * width + column]);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRIES(T, name)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                     \
        embed_##name(T* y, const T* table, const uint32_t* ids, int tokens, int width) {                                  \
        embed(y, table, ids, tokens, width);                                                                              \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(EMBED_BACKWARD_THREADS)                                                  \
        embed_backward_##name(float* d_table, const T* dy, const uint32_t* ids, int tokens, int width) {                  \
        embed_backward(d_table, dy, ids, tokens, width);                                                                  \
    }
ENTRIES(bf16, bf16)
ENTRIES(float, f32)

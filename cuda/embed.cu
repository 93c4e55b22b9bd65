// Token embedding, and the scatter-add that undoes it.
//
//   embed           y[t,:] = table[ids[t],:]          y [tokens,width] T (=), table [vocab,width] T, ids [tokens] u32 < vocab
//   embed_backward  d_table[ids[t],:] += dy[t,:]      d_table [vocab,width] f32 (+=), dy [tokens,width] T; t ascending
//
// An id that is no row ends the kernel with a trap: nothing else may be read or written in its place.
//
// Launch: embed: any grid of ELEMENTWISE_THREADS, it strides. embed_backward: grid (⌈width / (EMBED_BACKWARD_COLUMNS·EMBED_BACKWARD_THREADS)⌉,
// EMBED_BACKWARD_SHARES). `width` divisible by 16 bytes of T (backward: of f32) goes by 16-byte accesses, any other by elements.
#include "common.cuh"

// ---------------------------------------------------------------------------------------------------------------- kernels

// The row of an id.
template <typename T>
__device__ __forceinline__ const T* row_of(const T* table, uint32_t id, int width, int vocab) {
    if (id >= uint32_t(vocab)) __trap();
    return table + int64_t(id) * width;
}

template <typename T>
__device__ __forceinline__ void embed(T* y, const T* table, const uint32_t* ids, int tokens, int width, int vocab) {
    constexpr int V = Vec<T>::N;
    const int64_t first = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, step = int64_t(gridDim.x) * blockDim.x;
    if (width % V == 0) {
        const int vectors = width / V;
        for (int64_t i = first; i < int64_t(tokens) * vectors; i += step) {
            const int t = i / vectors, c = i % vectors;
            store_vec(y + i * V, load_vec(row_of(table, ids[t], width, vocab) + c * V));
        }
    } else {
        for (int64_t i = first; i < int64_t(tokens) * width; i += step)
            y[i] = row_of(table, ids[i / width], width, vocab)[i % width];
    }
}

constexpr int COLUMNS = EMBED_BACKWARD_COLUMNS;
static_assert(COLUMNS == 4, "a thread adds by load_four");

// Calls f(t, ids[t]) for the block's share of the tokens, in order. All threads of the block take part; the ids come to it once.
template <typename F>
__device__ __forceinline__ void each_of_share(const uint32_t* ids, int tokens, int vocab, F f) {
    __shared__ uint32_t here[EMBED_BACKWARD_THREADS];
    for (int first = 0; first < tokens; first += EMBED_BACKWARD_THREADS) {
        __syncthreads();
        if (first + int(threadIdx.x) < tokens) here[threadIdx.x] = ids[first + threadIdx.x];
        __syncthreads();
        for (int i = 0; i < min(EMBED_BACKWARD_THREADS, tokens - first); i++)
            if (here[i] % EMBED_BACKWARD_SHARES == blockIdx.y) {
                if (here[i] >= uint32_t(vocab)) __trap();  // for all threads or none: they meet at barriers
                f(first + i, here[i]);
            }
    }
}

// y[t,:] = table[ids[t],:]  =>  d_table[ids[t],:] += dy[t,:]. A thread owns some columns of the table's rows whose number is
// its share; it goes through the tokens in order, so equal ids are summed in order and no two threads meet.
template <typename T>
__device__ __forceinline__ void embed_backward(float* d_table, const T* dy, const uint32_t* ids, int tokens, int width, int vocab) {
    if (width % COLUMNS == 0) {
        const int column = (blockIdx.x * EMBED_BACKWARD_THREADS + threadIdx.x) * COLUMNS;
        each_of_share(ids, tokens, vocab, [&](int t, uint32_t id) {
            if (column >= width) return;
            float* const to = d_table + int64_t(id) * width + column;
            const Vec<float> d = load_four(dy + int64_t(t) * width + column);
            Vec<float> sum = load_vec(to);
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) sum.x[j] += d.x[j];
            store_vec(to, sum);
        });
    } else {
        const int column = blockIdx.x * EMBED_BACKWARD_THREADS * COLUMNS + threadIdx.x;
        each_of_share(ids, tokens, vocab, [&](int t, uint32_t id) {
#pragma unroll
            for (int j = 0; j < COLUMNS; j++)
                if (const int c = column + j * EMBED_BACKWARD_THREADS; c < width)
                    d_table[int64_t(id) * width + c] += to_float(dy[int64_t(t) * width + c]);
        });
    }
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRIES(T, name)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ELEMENTWISE_THREADS)                                                     \
        embed_##name(T* y, const T* table, const uint32_t* ids, int tokens, int width, int vocab) {                       \
        embed(y, table, ids, tokens, width, vocab);                                                                       \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(EMBED_BACKWARD_THREADS)                                                  \
        embed_backward_##name(float* d_table, const T* dy, const uint32_t* ids, int tokens, int width, int vocab) {       \
        embed_backward(d_table, dy, ids, tokens, width, vocab);                                                           \
    }
ENTRIES(bf16, bf16)
ENTRIES(float, f32)

// The three products of a linear layer, in bf16 on tensor cores. `m` tokens, `n` outputs, `k` inputs in all three names:
//
//   matmul_nt  y[m,n]  = x[m,k]·w[n,k]ᵀ (+ bias[n]) (+ residual[m,n])    y (=) bf16
//   matmul_nt_f32out: y (=) f32, and stats (=) [m, ⌈n/MATMUL_N⌉] pairs of f32 (epilogue.cuh) where not null
//   matmul_nn  dx[m,k] (= or +=) dy[m,n]·w[n,k]                          undoes matmul_nt for x; sum in f32, rounded once
//   matmul_tn  dw[n,k] += dy[m,n]ᵀ·x[m,k]                                undoes matmul_nt for w; dw f32
//
// One kernel for all: C[rows,columns] from A and B, summed over `depth`. An operand is "deep" when the depth runs along its
// rows in memory (A[rows,depth], B[columns,depth]) and "wide" when it runs down its columns (A[depth,rows], B[depth,columns]);
// ldmatrix transposes a wide operand on its way into registers.
//
// A block makes MATMUL_M x MATMUL_N of C, four warps 64 x 64 each; MATMUL_STAGES slices of MATMUL_K of the depth are in
// flight by cp.async, so a slice has the time of three others to arrive. What is summed for rows and columns beyond the edge is
// never stored, so only the depth's edge must be zero. The aligned kernels read such rows and columns from the last there are,
// and need every row of A and B to start on 16 bytes (row lengths divisible by 8); the ragged ones take any length, element by
// element, and zeros beyond every edge.
//
// Launch: MATMUL_THREADS; grid (⌈columns/MATMUL_N⌉, ⌈rows/MATMUL_M⌉); dynamic shared memory MATMUL_SHARED_BYTES.
#include "epilogue.cuh"

// ------------------------------------------------------------------------------------------------------------ the tiles

// One slice of an operand in shared memory, `LINES` lines of the deep or wide kind. 16-byte chunks are swizzled so that the
// eight rows that ldmatrix reads at once, and the eight chunks that cp.async writes at once, lie in different banks.
template <bool DEEP, int EXTENT>
struct Tile {
    static constexpr int LINES = DEEP ? EXTENT : MATMUL_K;         // rows in shared memory
    static constexpr int CHUNKS = (DEEP ? MATMUL_K : EXTENT) / 8;  // of 16 bytes in a row
    static constexpr int BYTES = LINES * CHUNKS * 16;
    static constexpr int COPIES = LINES * CHUNKS / MATMUL_THREADS;  // of each thread
    static constexpr int STEP = MATMUL_THREADS / CHUNKS;            // lines between them

    __device__ static uint32_t at(int line, int chunk) {
        const int swizzled = DEEP ? chunk ^ ((line >> 1) & 3) : chunk ^ (line & 7);
        return (line * CHUNKS + swizzled) * 16;
    }
};

// Where a thread fetches its part of every slice from, and puts it.
template <bool DEEP, int EXTENT>
struct Fetch {
    using Slice = Tile<DEEP, EXTENT>;
    static constexpr bool ALIGNED = true;
    const bf16* from[DEEP ? Slice::COPIES : 1];
    uint32_t to;  // of the first copy into the first stage; the others are STEP lines on, which the swizzle does not see
    int line, chunk, stride;

    // `first`: of the block's rows or columns; `extent`: how many there are; `stride`: elements between lines in memory.
    __device__ Fetch(uint32_t slice, const bf16* p, int first, int extent, int stride) : stride(stride) {
        line = threadIdx.x / Slice::CHUNKS;
        chunk = threadIdx.x % Slice::CHUNKS;
        to = slice + Slice::at(line, chunk);
        if constexpr (DEEP) {
#pragma unroll
            for (int i = 0; i < Slice::COPIES; i++)
                from[i] = p + int64_t(min(first + line + i * Slice::STEP, extent - 1)) * stride + chunk * 8;
        } else {
            from[0] = p + int64_t(line) * stride + min(first + chunk * 8, extent - 8);
        }
    }

    // Starts the copies of the next slice into the stage that lies `stage` bytes after the first. What lies outside the depth is
    // not read; WHOLE: nothing does.
    template <bool WHOLE>
    __device__ void start(uint32_t stage, int k, int depth) {
        static_assert(Slice::STEP % 8 == 0, "the swizzle must be the same for all copies of a thread");
        const int left = depth - k;
        const bf16* wide = from[0];
#pragma unroll
        for (int i = 0; i < Slice::COPIES; i++) {
            const uint32_t shared = to + stage + i * Slice::STEP * Slice::CHUNKS * 16;
            const bool inside = DEEP ? chunk * 8 < left : line + i * Slice::STEP < left;
            const bf16* source = DEEP ? from[i] : wide;
            if constexpr (WHOLE) cp_async_16(shared, source);
            else cp_async_16(shared, source, inside ? 16 : 0);  // a source of no bytes is not read
            if constexpr (DEEP) from[i] += MATMUL_K;
            wide += int64_t(Slice::STEP) * stride;
        }
        if constexpr (!DEEP) from[0] = wide;
    }
};

// The same, element by element: for rows that do not start on 16 bytes. What lies outside is zero.
template <bool DEEP, int EXTENT>
struct RaggedFetch {
    using Slice = Tile<DEEP, EXTENT>;
    static constexpr bool ALIGNED = false;
    uint32_t slice;
    const bf16* p;
    int first, extent, stride;

    __device__ RaggedFetch(uint32_t slice, const bf16* p, int first, int extent, int stride)
        : slice(slice), p(p), first(first), extent(extent), stride(stride) {}

    template <bool WHOLE>
    __device__ void start(uint32_t stage, int k, int depth) {
        for (int i = threadIdx.x; i < Slice::LINES * Slice::CHUNKS; i += MATMUL_THREADS) {
            const int line = i / Slice::CHUNKS, chunk = i % Slice::CHUNKS;
            uint32_t words[4];
#pragma unroll
            for (int j = 0; j < 4; j++) words[j] = element(line, chunk * 8 + 2 * j, k, depth) | element(line, chunk * 8 + 2 * j + 1, k, depth) << 16;
            store_shared_16(slice + stage + Slice::at(line, chunk), words);
        }
    }

    __device__ uint32_t element(int line, int column, int k, int depth) const {
        const int along = first + (DEEP ? line : column), deep = k + (DEEP ? column : line);
        if (along >= extent || deep >= depth) return 0;
        return reinterpret_cast<const uint16_t*>(p)[DEEP ? int64_t(along) * stride + deep : int64_t(deep) * stride + along];
    }
};

// ----------------------------------------------------------------------------------------------------------- the kernel

constexpr int WARP_M = 64, WARP_N = 64;
constexpr int ROW_BLOCKS = WARP_M / 16, COLUMN_BLOCKS = WARP_N / 8;
using Sums = float[ROW_BLOCKS][COLUMN_BLOCKS][4];

// Where a lane reads a warp's fragments of an operand from, in the first stage: the swizzle is worked out once, the rest of
// every address is a constant, the stage's distance too where it is one. `BLOCKS` of 16 rows (or columns) from `first` on. Of the four 8x8 matrices of a block, `along` and
// `deep` say whether this lane's is the second along the operand and the second in depth.
template <bool DEEP, int EXTENT, int BLOCKS>
struct Reader {
    using Slice = Tile<DEEP, EXTENT>;
    static constexpr int KINDS = DEEP ? MATMUL_K / 16 : BLOCKS;  // of swizzles: by depth, or by block
    uint32_t at[KINDS];

    __device__ Reader(uint32_t slice, int first, int along, int deep) {
        const int low = threadIdx.x % 8;
#pragma unroll
        for (int i = 0; i < KINDS; i++)
            at[i] = slice + (DEEP ? Slice::at(first + low + 8 * along, 2 * i + deep) : Slice::at(low + 8 * deep, first / 8 + 2 * i + along));
    }

    __device__ void read(uint32_t (&r)[4], uint32_t stage, int block, int k) const {
        if constexpr (DEEP) ldmatrix_x4(r, at[k] + stage + block * 16 * Slice::CHUNKS * 16);
        else ldmatrix_x4_trans(r, at[block] + stage + k * 16 * Slice::CHUNKS * 16);
    }
};

// sums += A[64,32]·B[32,64] of this warp, of the slice that lies `stage` bytes after the first.
template <typename A, typename B>
__device__ __forceinline__ void multiply_slice(Sums& sums, const A& a_reader, const B& b_reader, uint32_t stage) {
#pragma unroll
    for (int k = 0; k < MATMUL_K / 16; k++) {
        uint32_t a[ROW_BLOCKS][4], b[COLUMN_BLOCKS / 2][4];
#pragma unroll
        for (int i = 0; i < ROW_BLOCKS; i++) a_reader.read(a[i], stage, i, k);
#pragma unroll
        for (int j = 0; j < COLUMN_BLOCKS / 2; j++) b_reader.read(b[j], stage, j, k);
#pragma unroll
        for (int i = 0; i < ROW_BLOCKS; i++)
#pragma unroll
            for (int j = 0; j < COLUMN_BLOCKS; j++)
                mma_bf16(sums[i][j], a[i], b[j / 2][2 * (j % 2)], b[j / 2][2 * (j % 2) + 1]);
    }
}

constexpr int STAGED_ROWS = 64;            // of the tile go through shared memory at a time
constexpr int STAGED_STRIDE = MATMUL_N + 8;  // a row starts eight banks on from the last: pairs of four rows fill all banks once

// The tile's sums to memory, through shared memory so that stores are whole 16 bytes next to each other.
template <typename Last>
__device__ __forceinline__ void store_tile(const Sums& sums, float* staged, Last out, int row0, int column0, int warp_m, int warp_n) {
    constexpr int V = Last::V;
    const int group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4 * 2;
#pragma unroll 1
    for (int half = 0; half < MATMUL_M / STAGED_ROWS; half++) {
        __syncthreads();
        if (warp_m / STAGED_ROWS == half) {
#pragma unroll
            for (int i = 0; i < ROW_BLOCKS; i++)
#pragma unroll
                for (int j = 0; j < COLUMN_BLOCKS; j++) {
                    const uint32_t at = shared_address(staged + (i * 16 + group) * STAGED_STRIDE + warp_n + j * 8 + pair);
                    store_shared_8(at, sums[i][j][0], sums[i][j][1]);
                    store_shared_8(at + 8 * STAGED_STRIDE * 4, sums[i][j][2], sums[i][j][3]);
                }
        }
        __syncthreads();
        for (int i = threadIdx.x * V; i < STAGED_ROWS * MATMUL_N; i += MATMUL_THREADS * V) {
            const int row = i / MATMUL_N, column = i % MATMUL_N;
            const float* const sums_there = staged + row * STAGED_STRIDE + column;
            out.store(sums_there, row0 + half * STAGED_ROWS + row, column0 + column);
            out.row_done(sums_there, row0 + half * STAGED_ROWS + row, column0 + column);
        }
    }
}

template <template <bool, int> class Fetcher, bool A_DEEP, bool B_DEEP, typename Last>
__device__ __forceinline__ void product(Last out, const bf16* a, const bf16* b, int depth) {
    extern __shared__ __align__(128) uint4 memory[];
    constexpr int A_BYTES = Tile<A_DEEP, MATMUL_M>::BYTES, STAGE = A_BYTES + Tile<B_DEEP, MATMUL_N>::BYTES;
    static_assert(MATMUL_STAGES * STAGE == MATMUL_SHARED_BYTES, "the launch gives MATMUL_SHARED_BYTES");
    static_assert(STAGED_ROWS * STAGED_STRIDE * 4 <= MATMUL_SHARED_BYTES, "the sums go out through the same memory");
    const uint32_t base = shared_address(memory);
    const int row0 = blockIdx.y * MATMUL_M, column0 = blockIdx.x * MATMUL_N;
    const int warp = threadIdx.x / 32, warp_m = warp / 2 * WARP_M, warp_n = warp % 2 * WARP_N;
    Fetcher<A_DEEP, MATMUL_M> fetch_a(base, a, row0, out.rows, A_DEEP ? depth : out.rows);
    Fetcher<B_DEEP, MATMUL_N> fetch_b(base + A_BYTES, b, column0, out.columns, B_DEEP ? depth : out.columns);
    // fragments as mma_bf16 takes them: of A the second matrix is the next rows, of B the next depth
    const Reader<A_DEEP, MATMUL_M, ROW_BLOCKS> read_a(base, warp_m, second_matrix(), third_matrix());
    const Reader<B_DEEP, MATMUL_N, COLUMN_BLOCKS / 2> read_b(base + A_BYTES, warp_n, third_matrix(), second_matrix());
    const int slices = (depth + MATMUL_K - 1) / MATMUL_K;
    constexpr int AHEAD = MATMUL_STAGES - 1;
    Sums sums = {};
#pragma unroll
    for (int s = 0; s < AHEAD; s++) {
        if (s < slices) {
            fetch_a.template start<false>(s * STAGE, s * MATMUL_K, depth);
            fetch_b.template start<false>(s * STAGE, s * MATMUL_K, depth);
        }
        cp_async_commit();
    }
    const auto wait = [&] {
        cp_async_wait<MATMUL_STAGES - 2>();
        __syncthreads();  // the slice is there for all, and all are done with the stage that is written next
    };
    const auto multiply = [&](uint32_t stage) {
        cp_async_commit();
        multiply_slice(sums, read_a, read_b, stage);
    };
    // The main loop goes once around the ring, so that every stage is a constant; what it fetches lies inside the depth.
    const int whole = Fetcher<A_DEEP, MATMUL_M>::ALIGNED ? depth / MATMUL_K - AHEAD : 0;
    int s = 0;
#pragma unroll 1
    for (; s + MATMUL_STAGES <= whole; s += MATMUL_STAGES) {
#pragma unroll
        for (int i = 0; i < MATMUL_STAGES; i++) {
            wait();
            fetch_a.template start<true>((i + AHEAD) % MATMUL_STAGES * STAGE, 0, 0);
            fetch_b.template start<true>((i + AHEAD) % MATMUL_STAGES * STAGE, 0, 0);
            multiply(i * STAGE);
        }
    }
#pragma unroll 1
    for (; s < slices; s++) {
        wait();
        if (const int next = s + AHEAD; next < slices) {
            fetch_a.template start<false>(next % MATMUL_STAGES * STAGE, next * MATMUL_K, depth);
            fetch_b.template start<false>(next % MATMUL_STAGES * STAGE, next * MATMUL_K, depth);
        }
        multiply(s % MATMUL_STAGES * STAGE);
    }
    cp_async_wait<0>();
    store_tile(sums, reinterpret_cast<float*>(memory), out, row0, column0, warp_m, warp_n);
}

// ---------------------------------------------------------------------------------------------------------- entry points

#define ENTRIES(Fetcher, suffix)                                                                                          \
    extern "C" __global__ void __launch_bounds__(MATMUL_THREADS, 2)                                                       \
        matmul_nt_##suffix(bf16* y, const bf16* x, const bf16* w, const bf16* bias, const bf16* residual, int m, int n,   \
                           int k) {                                                                                       \
        product<Fetcher, true, true>(Epilogue<bf16>{y, residual, bias, m, n}, x, w, k);                                   \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(MATMUL_THREADS, 2)                                                       \
        matmul_nt_f32out_##suffix(float* y, const bf16* x, const bf16* w, float2* stats, int m, int n, int k) {           \
        product<Fetcher, true, true>(LogitEpilogue{{y, nullptr, nullptr, m, n}, stats}, x, w, k);                         \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(MATMUL_THREADS, 2)                                                       \
        matmul_nn_##suffix(bf16* dx, const bf16* dy, const bf16* w, int accumulate, int m, int n, int k) {                \
        product<Fetcher, true, false>(Epilogue<bf16>{dx, accumulate ? dx : nullptr, nullptr, m, k}, dy, w, n);            \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(MATMUL_THREADS, 2)                                                       \
        matmul_tn_##suffix(float* dw, const bf16* dy, const bf16* x, int m, int n, int k) {                               \
        product<Fetcher, false, false>(Epilogue<float>{dw, dw, nullptr, n, k}, dy, x, m);                                 \
    }
ENTRIES(Fetch, bf16)
ENTRIES(RaggedFetch, ragged_bf16)

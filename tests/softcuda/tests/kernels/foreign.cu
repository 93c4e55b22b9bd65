// Kernels as other people write them, for softcuda's own tests: a reduction by shuffles, a histogram by atomics, a scan, a
// tiled transpose, a 3-dimensional stencil, products on tensor cores by nvcuda::wmma,
// functions that are called, cooperative groups. Nothing of this project's headers.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>

__inline__ __device__ float warpReduceSum(float val) {
    for (int offset = warpSize / 2; offset > 0; offset /= 2) val += __shfl_down_sync(0xffffffff, val, offset);
    return val;
}

extern "C" __global__ void reduce(const float* in, float* out, int n) {
    __shared__ float shared[32];
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) sum += in[i];
    const int lane = threadIdx.x % warpSize, wid = threadIdx.x / warpSize;
    sum = warpReduceSum(sum);
    if (lane == 0) shared[wid] = sum;
    __syncthreads();
    sum = (threadIdx.x < blockDim.x / warpSize) ? shared[lane] : 0;
    if (wid == 0) sum = warpReduceSum(sum);
    if (threadIdx.x == 0) atomicAdd(out, sum);
}

extern "C" __global__ void histogram(const unsigned char* data, unsigned int* bins, int n) {
    __shared__ unsigned int local[256];
    for (int i = threadIdx.x; i < 256; i += blockDim.x) local[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += blockDim.x * gridDim.x) atomicAdd(&local[data[i]], 1u);
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += blockDim.x)
        if (local[i]) atomicAdd(&bins[i], local[i]);
}

// Exclusive, of one block; Blelloch's two sweeps. n a power of two, dynamic shared memory of n ints.
extern "C" __global__ void scan(int* data, int n) {
    extern __shared__ int temp[];
    const int tid = threadIdx.x;
    temp[2 * tid] = data[2 * tid];
    temp[2 * tid + 1] = data[2 * tid + 1];
    int offset = 1;
    for (int d = n >> 1; d > 0; d >>= 1) {
        __syncthreads();
        if (tid < d) temp[offset * (2 * tid + 2) - 1] += temp[offset * (2 * tid + 1) - 1];
        offset *= 2;
    }
    if (tid == 0) temp[n - 1] = 0;
    for (int d = 1; d < n; d *= 2) {
        offset >>= 1;
        __syncthreads();
        if (tid < d) {
            const int left = offset * (2 * tid + 1) - 1, right = offset * (2 * tid + 2) - 1;
            const int t = temp[left];
            temp[left] = temp[right];
            temp[right] += t;
        }
    }
    __syncthreads();
    data[2 * tid] = temp[2 * tid];
    data[2 * tid + 1] = temp[2 * tid + 1];
}

extern "C" __global__ void transpose(float* out, const float* in, int width, int height) {
    __shared__ float tile[32][33];
    int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8)
        if (x < width && y + j < height) tile[threadIdx.y + j][threadIdx.x] = in[(y + j) * width + x];
    __syncthreads();
    x = blockIdx.y * 32 + threadIdx.x;
    y = blockIdx.x * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8)
        if (x < height && y + j < width) out[(y + j) * height + x] = tile[threadIdx.x][threadIdx.y + j];
}

extern "C" __global__ void mean_of_neighbours(float* out, const float* in, int nx, int ny, int nz) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    const int z = blockIdx.z * blockDim.z + threadIdx.z;
    if (x >= nx || y >= ny || z >= nz) return;
    float sum = 0;
    int count = 0;
    for (int dz = -1; dz <= 1; dz++)
        for (int dy = -1; dy <= 1; dy++)
            for (int dx = -1; dx <= 1; dx++) {
                const int a = x + dx, b = y + dy, c = z + dz;
                if (a < 0 || b < 0 || c < 0 || a >= nx || b >= ny || c >= nz) continue;
                sum += in[(c * ny + b) * nx + a];
                count++;
            }
    out[(z * ny + y) * nx + x] = sum / count;
}

// One warp for each 16x16 tile of c = a·b; a by rows, b by columns; the sides are multiples of 16.
template <typename T>
__device__ void wmma_tile(const T* a, const T* b, float* c, int n, int k) {
    using namespace nvcuda;
    wmma::fragment<wmma::matrix_a, 16, 16, 16, T, wmma::row_major> left;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, T, wmma::col_major> right;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
    const int row = blockIdx.y * 16, column = blockIdx.x * 16;
    wmma::fill_fragment(sum, 0.0f);
    for (int i = 0; i < k; i += 16) {
        wmma::load_matrix_sync(left, a + row * k + i, k);
        wmma::load_matrix_sync(right, b + column * k + i, k);
        wmma::mma_sync(sum, left, right, sum);
    }
    for (int i = 0; i < sum.num_elements; i++) sum.x[i] *= 0.5f;
    wmma::store_matrix_sync(c + row * n + column, sum, n, wmma::mem_row_major);
}

extern "C" __global__ void wmma_f16(const half* a, const half* b, float* c, int n, int k) { wmma_tile(a, b, c, n, k); }
extern "C" __global__ void wmma_bf16(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int n, int k) {
    wmma_tile(a, b, c, n, k);
}

// Tiles of 8x32 with f16 sums, through shared memory; a by columns, b by rows. One block of one warp.
extern "C" __global__ void wmma_shared(const half* a, const half* b, half* c) {
    using namespace nvcuda;
    __shared__ __align__(32) half left[8 * 16], right[16 * 32], out[8 * 32];
    for (int i = threadIdx.x; i < 8 * 16; i += 32) left[i] = a[i];
    for (int i = threadIdx.x; i < 16 * 32; i += 32) right[i] = b[i];
    __syncwarp();
    wmma::fragment<wmma::matrix_a, 8, 32, 16, half, wmma::col_major> x;
    wmma::fragment<wmma::matrix_b, 8, 32, 16, half, wmma::row_major> y;
    wmma::fragment<wmma::accumulator, 8, 32, 16, half> z;
    wmma::fill_fragment(z, __float2half(1.0f));
    wmma::load_matrix_sync(x, left, 8);
    wmma::load_matrix_sync(y, right, 32);
    wmma::mma_sync(z, x, y, z);
    wmma::store_matrix_sync(out, z, 32, wmma::mem_row_major);
    __syncwarp();
    for (int i = threadIdx.x; i < 8 * 32; i += 32) c[i] = out[i];
}

// Functions that stay functions: recursion, a structure passed and returned, pointers to functions.
__noinline__ __device__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

struct Moments {
    double sum;
    int counts[5];
};

__noinline__ __device__ Moments add_value(Moments m, int value) {
    m.sum += value;
    m.counts[value % 5]++;
    return m;
}

typedef float (*Combine)(float, float);
__device__ float plus_(float a, float b) { return a + b; }
__device__ float times_(float a, float b) { return a * b; }
__device__ float less_(float a, float b) { return a - b; }
__device__ Combine combine[3] = {plus_, times_, less_};

// Only some lanes call, to different depths; the warp meets again behind the call.
extern "C" __global__ void calls(int* numbers, double* sums, float* combined, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    int value = -1;
    if (i % 3 != 1) value = fibonacci(i % 11);
    numbers[i] = __shfl_xor_sync(0xffffffff, value, 1);
    Moments m = {};
    for (int j = 0; j <= i % 7; j++) m = add_value(m, i + j);
    sums[i] = m.sum + 1000 * m.counts[i % 5];
    combined[i] = combine[i % 3]((float)i, (float)n);
}

extern "C" __global__ void too_deep(int* out) { *out = fibonacci(*out); }

// Sums and largest values over tiles of a block by cooperative groups.
extern "C" __global__ void groups(const int* in, int* sums, int* most, int* same) {
    namespace cg = cooperative_groups;
    auto block = cg::this_thread_block();
    auto warp = cg::tiled_partition<32>(block);
    auto tile = cg::tiled_partition<8>(block);
    const int i = block.group_index().x * block.size() + block.thread_rank();
    const int x = in[i];
    const int total = cg::reduce(warp, x, cg::plus<int>());
    if (warp.thread_rank() == 0) sums[i / 32] = total;
    most[i] = cg::reduce(tile, x, cg::greater<int>());
    // how many lanes have this value, and their sum in one instruction for all groups
    const unsigned peers = __match_any_sync(0xffffffff, x);
    same[i] = __popc(peers) * 1000 + __reduce_add_sync(peers, i % 32);
}

// What a block of threads agrees on at a barrier.
extern "C" __global__ void barrier_votes(const int* values, int* out) {
    const int value = values[blockIdx.x * blockDim.x + threadIdx.x];
    const int odd = __syncthreads_count(value & 1);
    const int all = __syncthreads_and(value > 0);
    const int any = __syncthreads_or(!(value < 90));
    if (threadIdx.x % 33 == 0) {
        int* const to = out + (blockIdx.x * ((blockDim.x + 32) / 33) + threadIdx.x / 33) * 3;
        to[0] = odd;
        to[1] = all;
        to[2] = any;
    }
}

// Half of the block's warps are at another kind of barrier than the rest.
extern "C" __global__ void mixed_barriers(int* out) {
    if (threadIdx.x < 32) out[threadIdx.x] = __syncthreads_count(1);
    else __syncthreads();
}

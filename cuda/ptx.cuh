// Every PTX instruction that C++ has no name for, each behind a function of its own name (PTX ISA 9.0, section in brackets).
#pragma once
#include <cstdint>

// Address of shared memory as the 32-bit instructions below take it.
__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Copies 16 bytes from global to shared memory past the registers; the last 16 - `bytes` are zero. Both ends are 16-byte
// aligned; with `bytes` 0 the source is not read. [cp.async]
__device__ __forceinline__ void cp_async_16(uint32_t shared, const void* global, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}
__device__ __forceinline__ void cp_async_16(uint32_t shared, const void* global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}
// Copies 8 bytes likewise; with `bytes` 0 zeros. [cp.async]
__device__ __forceinline__ void cp_async_8(uint32_t shared, const void* global, int bytes) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}
// Ends a group of copies. [cp.async.commit_group]
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `N` groups of this thread are in flight. [cp.async.wait_group]
template <int N>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Stores 16 bytes at a shared address that is a multiple of 16. [st.shared.v4]
__device__ __forceinline__ void store_shared_16(uint32_t shared, const uint32_t (&w)[4]) {
    asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(shared), "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]) : "memory");
}

// Loads 16 bytes at a shared address that is a multiple of 16. [ld.shared.v4]
__device__ __forceinline__ float4 load_shared_16(uint32_t shared) {
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "r"(shared) : "memory");
    return v;
}
// Stores two floats at a shared address that is a multiple of 8. [st.shared.v2]
__device__ __forceinline__ void store_shared_8(uint32_t shared, float x, float y) {
    asm volatile("st.shared.v2.f32 [%0], {%1,%2};" ::"r"(shared), "f"(x), "f"(y) : "memory");
}

// Four 8x8 matrices of 16-bit elements: lane l gives the address of row l%8 of matrix l/8; it gets, from each, the elements
// 2·(l%4) and 2·(l%4)+1 of row l/4. [ldmatrix]
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}
// The same with each matrix transposed on the way.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(row) : "memory");
}

// Whether a lane's address is of the second or the fourth of the four matrices; of the third or the fourth.
__device__ __forceinline__ int second_matrix() { return threadIdx.x / 8 % 2; }
__device__ __forceinline__ int third_matrix() { return threadIdx.x / 16 % 2; }

// d[16x8] += a[16x16]·b[16x8], bf16 products, f32 sums, on tensor cores. With g = lane/4 and t = lane%4 a lane has
// d: (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1); a: rows g and g+8, columns 2t.. and 2t+8.. in the order (g, 2t), (g+8, 2t),
// (g, 2t+8), (g+8, 2t+8); b: rows 2t.. and 2t+8.. of column g. [mma.sync.m16n8k16]
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// The same from zero: d[16x8] = a[16x16]·b[16x8].
__device__ __forceinline__ void mma_bf16_from_zero(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.f));
}

// 2^x within 2 ulp, denormals to zero. [ex2.approx.ftz.f32]
__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Two f32 rounded to bf16, `low` in the lower half. [cvt.rn.bf16x2.f32]
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

// Philox4x32-10 (Salmon, Moraes, Dror & Shaw, SC'11), as src/random.rs has it: 128 random bits for a key and a counter.
#pragma once
#include <cstdint>

__device__ __forceinline__ uint4 philox4x32(uint4 x, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint32_t high0 = __umulhi(0xD2511F53u, x.x), low0 = 0xD2511F53u * x.x;
        const uint32_t high1 = __umulhi(0xCD9E8D57u, x.z), low1 = 0xCD9E8D57u * x.z;
        x = make_uint4(high1 ^ x.y ^ key.x, low1, high0 ^ x.w ^ key.y, low0);
        key = make_uint2(key.x + 0x9E3779B9u, key.y + 0xBB67AE85u);
    }
    return x;
}

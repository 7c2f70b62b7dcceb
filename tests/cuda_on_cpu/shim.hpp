// Enough of CUDA C++ for g++ to run the project's kernels on a CPU: one block after another, its threads as threads.
#pragma once
#include <barrier>
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __shared__ static

struct Dim3 {
    unsigned x, y, z;
};
inline thread_local Dim3 threadIdx, blockIdx;
inline Dim3 blockDim;
inline std::barrier<>* block_barrier = nullptr;

using std::isfinite;
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline void __syncthreads() { block_barrier->arrive_and_wait(); }
inline int atomicAdd(int* at, int value) { return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST); }
inline int atomicMax(int* at, int value) {
    int before = __atomic_load_n(at, __ATOMIC_SEQ_CST);
    while (before < value &&
           !__atomic_compare_exchange_n(at, &before, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    return before;
}
inline unsigned atomicAnd(unsigned* at, unsigned value) { return __atomic_fetch_and(at, value, __ATOMIC_SEQ_CST); }
inline int __ffs(unsigned value) { return __builtin_ffs((int)value); }
inline int __float2int_rn(float value) { return (int)std::nearbyintf(value); }
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// Runs `body` as a kernel of `grid` blocks of `block` threads; kernels with a barrier run one OS thread each.
template <typename Body> void run(Dim3 grid, Dim3 block, bool barriers, Body body) {
    blockDim = block;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                Dim3 at = {x, y, z};
                if (barriers) {
                    std::barrier<> barrier(block.x);
                    block_barrier = &barrier;
                    std::vector<std::thread> threads;
                    for (unsigned t = 0; t < block.x; ++t)
                        threads.emplace_back([&, t] {
                            blockIdx = at;
                            threadIdx = {t, 0, 0};
                            body();
                            barrier.arrive_and_drop();
                        });
                    for (auto& thread : threads) thread.join();
                    continue;
                }
                blockIdx = at;
                for (unsigned j = 0; j < block.y; ++j)
                    for (unsigned i = 0; i < block.x; ++i) {
                        threadIdx = {i, j, 0};
                        body();
                    }
            }
}

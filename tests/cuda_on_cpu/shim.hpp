// Enough of CUDA C++ for g++ to run the project's kernels on a CPU: one block after another, its threads as fibers that
// take turns at barriers and at instructions of a whole warp.
#pragma once
#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(threads)
#define DYNAMIC_SHARED(name) unsigned char* name = dynamic_shared

struct Dim3 {
    unsigned x, y, z;
};
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
struct int4 {
    int x, y, z, w;
};
inline Dim3 threadIdx, blockIdx, blockDim;
alignas(128) inline unsigned char dynamic_shared[256 << 10];

struct Barrier {
    unsigned arrived = 0, generation = 0;
};

struct Lane {  // what a warp's instructions read of each other's registers
    const void* address;
    unsigned a[4], b[2];
};

struct Block {
    struct Fiber {
        ucontext_t start;
        jmp_buf place;
        std::vector<char> stack;
        Dim3 thread;
        bool started = false, done = false;
    };
    std::vector<Fiber> fibers;
    std::vector<Barrier> warps;
    std::vector<Lane> lanes;
    Barrier all;
    unsigned live = 0, current = 0;
    jmp_buf scheduler;
};
inline Block* block_running = nullptr;

inline void yield() {
    Block& block = *block_running;
    if (_setjmp(block.fibers[block.current].place) == 0) _longjmp(block.scheduler, 1);
}

inline void wait_at(Barrier& barrier, unsigned count) {
    unsigned generation = barrier.generation;
    if (++barrier.arrived == count) {
        barrier.arrived = 0;
        ++barrier.generation;
    }
    while (barrier.generation == generation) yield();
}

inline void __syncthreads() { wait_at(block_running->all, block_running->live); }
inline void sync_warp() { wait_at(block_running->warps[threadIdx.x / 32], 32); }

// Runs `body` as a kernel of `grid` blocks of `block` threads; without barriers the threads run one after another.
template <typename Body> void run(Dim3 grid, Dim3 size, bool barriers, Body body) {
    static Body* entered;
    entered = &body;
    blockDim = size;
    Block block;
    if (barriers) {
        block.fibers.resize(size.x);
        block.warps.resize((size.x + 31) / 32);
        block.lanes.resize(size.x);
        for (auto& fiber : block.fibers) fiber.stack.resize(256 << 10);
    }
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                if (!barriers) {
                    for (unsigned j = 0; j < size.y; ++j)
                        for (unsigned i = 0; i < size.x; ++i) {
                            threadIdx = {i, j, 0};
                            body();
                        }
                    continue;
                }
                block_running = &block;
                block.live = size.x;
                block.all = {};
                for (auto& warp : block.warps) warp = {};
                for (unsigned i = 0; i < size.x; ++i) {
                    auto& fiber = block.fibers[i];
                    fiber.thread = {i, 0, 0};
                    fiber.started = fiber.done = false;
                }
                while (block.live > 0)
                    for (volatile unsigned i = 0; i < size.x; i = i + 1) {
                        auto& fiber = block.fibers[i];
                        if (fiber.done) continue;
                        block.current = i;
                        threadIdx = fiber.thread;
                        if (_setjmp(block.scheduler) != 0) continue;
                        if (fiber.started) _longjmp(fiber.place, 1);
                        fiber.started = true;
                        getcontext(&fiber.start);
                        fiber.start.uc_stack.ss_sp = fiber.stack.data();
                        fiber.start.uc_stack.ss_size = fiber.stack.size();
                        makecontext(&fiber.start, +[] {
                            (*entered)();
                            Block& block = *block_running;
                            block.fibers[block.current].done = true;
                            --block.live;
                            if (block.live > 0 && block.all.arrived == block.live) {
                                block.all.arrived = 0;
                                ++block.all.generation;
                            }
                            _longjmp(block.scheduler, 1);
                        }, 0);
                        setcontext(&fiber.start);
                    }
            }
}

// --- arithmetic ---

using std::isfinite;
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int atomicAdd(int* at, int value) {
    int before = *at;
    *at += value;
    return before;
}
inline int atomicMax(int* at, int value) {
    int before = *at;
    *at = max(before, value);
    return before;
}
inline unsigned atomicAnd(unsigned* at, unsigned value) {
    unsigned before = *at;
    *at &= value;
    return before;
}
inline int __ffs(unsigned value) { return __builtin_ffs((int)value); }
inline int __float2int_rn(float value) {
    return value >= 2147483648.0f ? INT32_MAX : value <= -2147483648.0f ? INT32_MIN : (int)std::nearbyintf(value);
}
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
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned bits) {
    return (unsigned)(((unsigned long long)high << 32 | low) >> (bits & 31));
}
inline unsigned pack_int8(int a, int b, int c, int d) {
    auto limited = [](int value) { return (unsigned)(value < -128 ? -128 : value > 127 ? 127 : value) & 0xff; };
    return limited(a) | limited(b) << 8 | limited(c) << 16 | limited(d) << 24;
}
inline unsigned pack_int8(int a, int b) { return pack_int8(a, b, 0, 0); }
inline float __expf(float value) { return std::exp(value); }
inline signed char byte_of(unsigned word, int index) { return (signed char)(word >> 8 * index & 0xff); }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        int from = selector >> 4 * i & 7;
        result |= (unsigned)(unsigned char)byte_of(from < 4 ? a : b, from % 4) << 8 * i;
    }
    return result;
}
inline int __dp4a(int a, int b, int sum) {
    for (int i = 0; i < 4; ++i) sum += byte_of((unsigned)a, i) * byte_of((unsigned)b, i);
    return sum;
}
inline unsigned __vmaxs4(unsigned a, unsigned b) {
    unsigned result = 0;
    for (int i = 0; i < 4; ++i)
        result |= (unsigned)(unsigned char)max(byte_of(a, i), byte_of(b, i)) << 8 * i;
    return result;
}

struct Divisor {
    unsigned factor, shift;
};
inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((unsigned long long)a * b >> 32); }
inline int divide(int value, Divisor by) {
    return (int)((__umulhi((unsigned)value, by.factor) + (unsigned)value) >> by.shift);
}

// --- instructions of a whole warp (source/warp.cuh) ---

template <int N> inline void copy_async(void* shared, const void* global) { std::memcpy(shared, global, N); }
inline void copy_async_or_zero(void* shared, const void* global, bool copies) {
    if (copies)
        std::memcpy(shared, global, 16);
    else
        std::memset(shared, 0, 16);
}
inline void commit_copies() {}
template <int N> inline void wait_for_copies() {}
inline void allow_next_kernel() {}
inline void wait_for_last_kernel() {}

inline void load_matrices(unsigned (&to)[4], const void* shared) {
    Lane* warp = &block_running->lanes[threadIdx.x / 32 * 32];
    int lane = threadIdx.x % 32;
    warp[lane].address = shared;
    sync_warp();
    for (int i = 0; i < 4; ++i)
        std::memcpy(&to[i], (const char*)warp[8 * i + lane / 4].address + 4 * (lane % 4), 4);
    sync_warp();
}

template <typename Sum, typename Dot>
inline void multiply_warp(Sum (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Dot dot) {
    Lane* warp = &block_running->lanes[threadIdx.x / 32 * 32];
    int lane = threadIdx.x % 32;
    std::memcpy(warp[lane].a, a, sizeof a);
    warp[lane].b[0] = b0;
    warp[lane].b[1] = b1;
    sync_warp();
    for (int i = 0; i < 4; ++i) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int part = 0; part < 8; ++part)
            sum[i] += dot(warp[row % 8 * 4 + part % 4].a[row / 8 + part / 4 * 2], warp[column * 4 + part % 4].b[part / 4]);
    }
    sync_warp();
}

inline void multiply(int (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    multiply_warp(sum, a, b0, b1, [](unsigned x, unsigned y) { return __dp4a((int)x, (int)y, 0); });
}

inline void multiply(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    multiply_warp(sum, a, b0, b1, [](unsigned x, unsigned y) {
        _Float16 p[2], q[2];
        std::memcpy(p, &x, 4);
        std::memcpy(q, &y, 4);
        return (float)p[0] * (float)q[0] + (float)p[1] * (float)q[1];
    });
}

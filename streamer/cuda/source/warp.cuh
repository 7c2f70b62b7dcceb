// Warp-wide instructions of the INT8 engine's kernels: tensor cores, matrix loads and asynchronous copies.
// Before compute capability 8.0 (Turing), smaller matrix instructions and plain copies do the same.
#pragma once
#include <cuda_fp16.h>
#include <stdint.h>

#ifdef __CUDACC__  // tests/cuda_on_cpu has these for the CPU

#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

// Copies N bytes (4, 8 or 16) from global to shared memory asynchronously.
template <int N> __device__ inline void copy_async(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
    unsigned at = (unsigned)__cvta_generic_to_shared(shared);
    if (N == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(global));
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(global), "n"(N));
#else
    for (int i = 0; i < N / 4; ++i) ((int*)shared)[i] = ((const int*)global)[i];
#endif
}

// The same for 16 bytes, or zeros where there is nothing to copy.
__device__ inline void copy_async_or_zero(void* shared, const void* global, bool copies) {
#if __CUDA_ARCH__ >= 800
    unsigned at = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(global), "r"(copies ? 16 : 0));
#else
    *(uint4*)shared = copies ? *(const uint4*)global : make_uint4(0, 0, 0, 0);
#endif
}

__device__ inline void commit_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;");
#endif
}

// Waits until at most N groups of copies of this thread are outstanding.
template <int N> __device__ inline void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N));
#endif
}

// Loads four matrices of 8 rows of 16 bytes. Lane i gives the address of row i % 8 of matrix i / 8, and gets bytes
// 4 * (i % 4) to 4 * (i % 4) + 3 of row i / 4 of each.
__device__ inline void load_matrices(unsigned (&to)[4], const void* shared) {
    unsigned at = (unsigned)__cvta_generic_to_shared(shared);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at));
}

// sum += a * b for a of 16 rows and b of 8 columns, both of 32 bytes of int8.
__device__ inline void multiply(int (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+r"(sum[0]), "+r"(sum[1]), "+r"(sum[2]), "+r"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    for (int part = 0; part < 4; ++part)
        asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                     : "+r"(sum[2 * (part % 2)]), "+r"(sum[2 * (part % 2) + 1])
                     : "r"(a[part]), "r"(part < 2 ? b0 : b1));
#endif
}

// The same for float16 operands and float32 sums.
__device__ inline void multiply(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    for (int part = 0; part < 2; ++part)
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
                     "{%0, %1, %2, %3};"
                     : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                     : "r"(a[2 * part]), "r"(a[2 * part + 1]), "r"(part ? b1 : b0));
#endif
}

// Packs two numbers as int8, the first one in the lower byte, limited to -128 to 127; the upper half is 0.
__device__ inline unsigned pack_int8(int a, int b) {
    unsigned word;
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, 0;" : "=r"(word) : "r"(b), "r"(a));
    return word;
}

// Packs four numbers as int8, the first one in the lowest byte, limited to -128 to 127.
__device__ inline unsigned pack_int8(int a, int b, int c, int d) {
    unsigned word;
    asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(word) : "r"(b), "r"(a), "r"(pack_int8(c, d)));
    return word;
}

// Divides by a number that the host knows (streamer/engines/int8/parameters.py, `divisor`), for values below 2^31.
struct Divisor {
    unsigned factor, shift;
};
__device__ inline int divide(int value, Divisor by) {
    return (int)((__umulhi((unsigned)value, by.factor) + (unsigned)value) >> by.shift);
}

// Lets the next kernel of the stream start while this one runs, where it was launched so (Hopper and later).
__device__ inline void allow_next_kernel() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Waits for the kernel before this one and its writes; required before any access to memory that kernels write.
__device__ inline void wait_for_last_kernel() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

#endif

// What happens to a sum before it is stored: the scales and the bias, LeakyReLU or ReLU, limits.
struct Epilogue {  // streamer/engines/int8/parameters.py (EPILOGUE)
    float slope, low, high;
    int zero_point;

    template <bool IS_PLAIN = false> __device__ inline float apply(float sum, float factor, float offset) const {
        float value = __fmaf_rn(sum, factor, offset);
        value = fmaxf(value, value * slope);
        return IS_PLAIN ? value : fminf(fmaxf(value, low), high);
    }

    // Rounds to int8; values without limits are limited here. PLAIN: the zero point is 0.
    template <bool IS_PLAIN = false> __device__ inline int round(float value) const {
        return __float2int_rn(value) + (IS_PLAIN ? 0 : zero_point);
    }

    __device__ inline unsigned pack(float a, float b, float c, float d) const {
        return pack_int8(round(a), round(b), round(c), round(d));
    }
};

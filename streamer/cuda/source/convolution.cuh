// The convolution kernel's parameters and shape, and how its results are stored.
#pragma once
#include "warp.cuh"

struct Convolution {  // streamer/engines/int8/parameters.py (CONVOLUTION) has the same fields
    const unsigned char* input;
    const unsigned char* weights;  // (columns, pitch) bytes, the inner dimension last
    const float* factors;          // of each column: scales of input and weights over the output's
    const float* offsets;          // bias over the output's scale
    void* output;
    const void* partner;     // the channels that take turns with the output's, for channel shuffles
    long long image_stride;  // of the network's output, in elements
    int input_height, input_width, input_pitch;     // the pitch: bytes from pixel to pixel
    int output_height, output_width, output_pitch;  // the pitch: elements from pixel to pixel
    int rows, columns, pitch, steps;
    int kernel_height, kernel_width, stride, pad_top, pad_left, units;
    int partner_pitch, half, gap, sigmoids, is_wide;
    int blocks, patch_width, patch_bytes;  // of each picture; of the part of a picture
    unsigned fill;                         // four bytes of the input's zero point
    Epilogue epilogue;
    Divisor by_area, by_width, by_units, by_kernel_width, by_blocks, by_patch_width;
};

enum Form { INT8 = 0, FLOAT16 = 1, INT8_SHUFFLED = 2, FLOAT16_SHUFFLED = 3, NETWORK_OUTPUT = 4 };
constexpr bool STORES_BYTES = FORM == INT8 || FORM == INT8_SHUFFLED;

#ifndef UNITS_A_TAP
#define UNITS_A_TAP 0
#define KERNEL 1
#endif

#if HALF
typedef float Sum;
#else
typedef int Sum;
#endif

enum {
    WARPS = ROW_WARPS * COLUMN_WARPS * DEPTH_WARPS,
    THREADS = 32 * WARPS,
    SLICE = 32,  // bytes of the inner dimension of one matrix instruction
    SLICES = DEPTH / SLICE / DEPTH_WARPS,
    WARP_ROWS = ROWS / ROW_WARPS,
    WARP_COLUMNS = COLUMNS / COLUMN_WARPS,
    ROW_TILES = WARP_ROWS / 16,
    COLUMN_TILES = WARP_COLUMNS / 8,
    UNITS = DEPTH / UNIT,
    ROWS_A_PASS = THREADS / UNITS,
    PASSES = (ROWS + ROWS_A_PASS - 1) / ROWS_A_PASS,
    CHUNKS = DEPTH / 16,
    COLUMNS_A_PASS = THREADS / CHUNKS,
    WEIGHT_PASSES = (COLUMNS + COLUMNS_A_PASS - 1) / COLUMNS_A_PASS,
    IS_PATCH = UNITS_A_TAP > 0,
    STAGE_ROWS = IS_PATCH ? 0 : ROWS,
    STAGE_BYTES = (STAGE_ROWS + COLUMNS) * DEPTH,
    SUMS_PITCH = COLUMNS + 4,  // elements; the padding avoids bank conflicts
    RESULT_PITCH = COLUMNS + 8,
    RESULT_AT = DEPTH_WARPS > 1 ? DEPTH_WARPS * ROWS * SUMS_PITCH * 4 : 0,  // behind the sums
};
static_assert(ROWS % (16 * ROW_WARPS) == 0 && COLUMNS % (16 * COLUMN_WARPS) == 0 && SLICES > 0, "wrong tile");

// A block's rows: pixels of the whole batch, or of one picture.
struct Rows {
    int first, count;
};

__device__ inline float sigmoid(float value) { return __fdividef(1.0f, 1.0f + __expf(-value)); }

// Stores (partner's channel, own channel) pairs of four channels. Where the second half of the result begins, `gap`
// elements are left out, so that it is aligned.
__device__ inline void store_shuffled(const Convolution& p, const signed char* own, int row, int channel) {
    unsigned left = *(const unsigned*)((const signed char*)p.partner + (long long)(row * p.partner_pitch + channel));
    unsigned right = *(const unsigned*)own;
    uint2 pairs = {__byte_perm(left, right, 0x5140), __byte_perm(left, right, 0x7362)};
    signed char* to = (signed char*)p.output + (long long)(row * p.output_pitch + 2 * channel);
    if (2 * (channel + 3) < p.half) {
        *(uint2*)to = pairs;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (channel + i < p.half)
            *(unsigned short*)(to + 2 * i + (2 * (channel + i) >= p.half ? p.gap : 0)) =
                (unsigned short)((i < 2 ? pairs.x : pairs.y) >> 16 * (i % 2));
}

__device__ inline void store_shuffled(const Convolution& p, const __half* own, int row, int channel) {
    const __half* partner = (const __half*)p.partner + (long long)row * p.partner_pitch;
    __half* to = (__half*)p.output + (long long)row * p.output_pitch;
    for (int i = 0; i < 4 && channel + i < p.half; ++i) {
        int at = 2 * (channel + i) + (2 * (channel + i) >= p.half ? p.gap : 0);
        to[at] = partner[channel + i];
        to[at + 1] = own[i];
    }
}

// Stores WIDTH channels of a pixel, as bytes or halves.
template <int WIDTH, typename T>
__device__ inline void store(const Convolution& p, const T* from, int row, int channel) {
    if constexpr (FORM == INT8_SHUFFLED || FORM == FLOAT16_SHUFFLED) {
        store_shuffled(p, from, row, channel);
    } else if constexpr (FORM == NETWORK_OUTPUT) {
        int image = divide(row, p.by_area), pixel = row - image * p.output_height * p.output_width;
        T* to = (T*)p.output + image * p.image_stride + (long long)(pixel * p.output_pitch + channel);
        if (p.is_wide) {
            if (channel < p.half) *(uint2*)to = *(const uint2*)from;
        } else {
            for (int i = 0; i < WIDTH; ++i)
                if (channel + i < p.half) to[i] = from[i];
        }
    } else {
        *(uint2*)((T*)p.output + (long long)(row * p.output_pitch + channel)) = *(const uint2*)from;
    }
}

// Writes neighbouring channels' results to shared memory.
__device__ inline void stage_result(const Convolution& p, unsigned char* result, int row, int column, int channel,
                                    float a, float b) {
    int at = row * RESULT_PITCH + column;
    if constexpr (STORES_BYTES) {
        ((unsigned short*)result)[at / 2] =
            (unsigned short)pack_int8(p.epilogue.round<PLAIN>(a), p.epilogue.round<PLAIN>(b));
    } else {
        if constexpr (FORM == NETWORK_OUTPUT) {
            if (channel < p.sigmoids) a = sigmoid(a);
            if (channel + 1 < p.sigmoids) b = sigmoid(b);
        }
        ((__half*)result)[at] = __float2half_rn(a);
        ((__half*)result)[at + 1] = __float2half_rn(b);
    }
}

template <typename T>
__device__ inline void store_all(const Convolution& p, const unsigned char* result, Rows rows, int first_column) {
    constexpr int UNROLLED = FORM == INT8 ? 4 : 1;
    constexpr int WIDTH = FORM == INT8 ? 8 : 4, PARTS = COLUMNS / WIDTH;
#pragma unroll UNROLLED
    for (unsigned i = threadIdx.x; i < ROWS * PARTS; i += THREADS) {
        int row = i / PARTS, column = i % PARTS * WIDTH;
        if (row < rows.count && first_column + column < p.columns)
            store<WIDTH>(p, (const T*)result + row * RESULT_PITCH + column, rows.first + row, first_column + column);
    }
}

// A convolution as a matrix product on the tensor cores: int8 by int8 to int32, or float16 by float16 to float32.
//
// Rows of the product are output pixels, columns are output channels, and the inner dimension runs over the kernel's
// taps and, within a tap, over the input's channels (implicit GEMM). Pictures are NHWC; a pixel's channels are padded
// to whole units of UNIT bytes, and weights have zeros there. What follows the convolution in the graph happens before
// the result is stored: bias, activation, and the next QuantizeLinear.
//
// Built once for each tile: ROWS x COLUMNS of the product and DEPTH bytes of the inner dimension at a time, STAGES of
// which are in shared memory; ROW_WARPS x COLUMN_WARPS x DEPTH_WARPS warps, where DEPTH_WARPS split the inner dimension
// and add up at the end. HALF selects float16, FORM how the result is stored, and PLAIN zero points of 0 and an
// activation without limits.
//
// With UNITS_A_TAP, a block first copies the part of a picture that its rows need, with the border, and only the weights
// pass through the stages: each pixel is read from global memory once instead of once for each tap. The kernel is then
// KERNEL x KERNEL, its input has UNITS_A_TAP units a pixel, and a block's rows are neighbouring pixels of one picture.
#include "convolution.cuh"

// Which of `count` places from `first` on are at least 0 and below `end`.
__device__ inline unsigned bits_inside(int first, int count, int end) {
    int begin = min(max(-first, 0), count), stop = min(max(end - first, 0), count);
    return ((1u << stop) - 1) & ~((1u << begin) - 1);
}

// The place of a 16-byte chunk in a tile, so that matrix loads and copies hit all banks.
__device__ inline int chunk_at(int row, int chunk) {
    int turn = DEPTH >= 128 ? row & 7 : DEPTH == 64 ? (row >> 1) & 3 : (row >> 2) & 1;
    return row * DEPTH + ((chunk ^ turn) * 16);
}

// One thread's share of copying the input's tile: one unit of each of PASSES rows.
struct InputCopier {
    int pixels[PASSES];       // bytes from the input's start, at the kernel's first tap
    unsigned inside[PASSES];  // which rows (bits 0 to 15) and columns (bits 16 to 31) of the kernel are in the picture
    int unit, tap_x, tap_y;
    int column, first_row;

    __device__ inline InputCopier(const Convolution& p, int first) {
        column = threadIdx.x % UNITS;
        first_row = threadIdx.x / UNITS;
        int tap = divide(column, p.by_units);
        unit = column - tap * p.units;
        tap_y = divide(tap, p.by_kernel_width);
        tap_x = tap - tap_y * p.kernel_width;
        int area = p.output_height * p.output_width;
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            int row = first + first_row + pass * ROWS_A_PASS;
            int image = divide(row, p.by_area), pixel = row - image * area;
            int y = divide(pixel, p.by_width), x = pixel - y * p.output_width;
            int top = y * p.stride - p.pad_top, left = x * p.stride - p.pad_left;
            pixels[pass] = ((image * p.input_height + top) * p.input_width + left) * p.input_pitch;
            inside[pass] = row < p.rows ? bits_inside(top, p.kernel_height, p.input_height) |
                                              bits_inside(left, p.kernel_width, p.input_width) << 16
                                        : 0;
        }
    }

    // Starts the copies of the next DEPTH bytes.
    __device__ inline void copy(const Convolution& p, unsigned char* tile) {
        int offset = (tap_y * p.input_width + tap_x) * p.input_pitch + unit * UNIT;
        // chunk_at turns by the row, of which these passes differ by a multiple of eight
        static_assert(ROWS_A_PASS % 8 == 0 || PASSES == 1, "wrong tile");
        unsigned char* to = tile + chunk_at(first_row, column * UNIT / 16) + column * UNIT % 16;
#pragma unroll
        for (int pass = 0; pass < PASSES; ++pass) {
            if (PASSES * ROWS_A_PASS > ROWS && first_row + pass * ROWS_A_PASS >= ROWS) break;
            bool copies = (inside[pass] >> tap_y) & (inside[pass] >> (16 + tap_x)) & 1;
            const unsigned char* from = p.input + (long long)(pixels[pass] + offset);  // not read if it isn't copied
            if (UNIT == 16 && PLAIN) {
                copy_async_or_zero(to, from, copies);
            } else if (copies) {
                copy_async<UNIT>(to, from);
            } else {
#pragma unroll
                for (int i = 0; i < UNIT / 4; ++i) ((unsigned*)to)[i] = p.fill;
            }
            to += ROWS_A_PASS * DEPTH;
        }
        unit += UNITS;
#pragma unroll 1
        while (unit >= p.units) {
            unit -= p.units;
            if (++tap_x == p.kernel_width) {
                tap_x = 0;
                ++tap_y;
            }
        }
    }
};

// One thread's share of copying the weights' tile.
struct WeightCopier {
    const unsigned char* from;
    int column, chunk, left;

    __device__ inline WeightCopier(const Convolution& p, int first) {
        column = threadIdx.x / CHUNKS;
        chunk = threadIdx.x % CHUNKS;
        left = p.columns - first - column;
        from = p.weights + (long long)(first + column) * p.pitch + chunk * 16;
    }

    __device__ inline void copy(const Convolution& p, unsigned char* tile) {
        static_assert(COLUMNS_A_PASS % 8 == 0 || WEIGHT_PASSES == 1, "wrong tile");
        unsigned char* to = tile + chunk_at(column, chunk);
#pragma unroll
        for (int pass = 0; pass < WEIGHT_PASSES; ++pass) {
            if (WEIGHT_PASSES * COLUMNS_A_PASS > COLUMNS && column + pass * COLUMNS_A_PASS >= COLUMNS) break;
            bool copies = pass * COLUMNS_A_PASS < left;
            copy_async_or_zero(to, from + (long long)(pass * COLUMNS_A_PASS * p.pitch), copies);
            to += COLUMNS_A_PASS * DEPTH;
        }
        from += DEPTH;
    }
};

#if UNITS_A_TAP
// The part of a picture that a block's rows need, in shared memory.
struct Patch {
    const unsigned char* shared;
    int base[ROW_TILES];  // the pixel of this lane's row of each tile, at the kernel's first tap

    // Finds the block's rows and starts the copies.
    __device__ inline Rows copy(const Convolution& p, unsigned char* to, int warp_row) {
        shared = to;
        int image = divide(blockIdx.x, p.by_blocks), block = blockIdx.x - image * p.blocks;
        int area = p.output_height * p.output_width, first = block * ROWS, last = min(first + ROWS, area) - 1;
        int first_y = divide(first, p.by_width), last_y = divide(last, p.by_width);
        int pixels = ((last_y - first_y) * p.stride + KERNEL) * p.patch_width;
        int top = first_y * p.stride - p.pad_top;
        const unsigned char* picture = p.input + (long long)image * p.input_height * p.input_width * p.input_pitch;
#pragma unroll 1
        for (unsigned i = threadIdx.x; i < (unsigned)pixels * UNITS_A_TAP; i += THREADS) {
            int pixel = i / UNITS_A_TAP, unit = i % UNITS_A_TAP;
            int row = divide(pixel, p.by_patch_width);
            int y = top + row, x = pixel - row * p.patch_width - p.pad_left;
            bool copies = (unsigned)y < (unsigned)p.input_height && (unsigned)x < (unsigned)p.input_width;
            unsigned char* at = to + place(pixel, unit);
            const unsigned char* from = picture + (long long)((y * p.input_width + x) * p.input_pitch + unit * 16);
            if (PLAIN) {
                copy_async_or_zero(at, from, copies);
            } else if (copies) {
                copy_async<16>(at, from);
            } else {
                for (int j = 0; j < 4; ++j) ((unsigned*)at)[j] = p.fill;
            }
        }
#pragma unroll
        for (int tile = 0; tile < ROW_TILES; ++tile) {
            int pixel = min(first + warp_row + tile * 16 + (int)threadIdx.x % 16, last);
            int y = divide(pixel, p.by_width);
            base[tile] = ((y - first_y) * p.patch_width + pixel - y * p.output_width) * p.stride;
        }
        Rows rows = {image * area + first, last - first + 1};
        return rows;
    }

    // The place of a unit, so that matrix loads hit all banks.
    __device__ static inline int place(int pixel, int unit) {
        int turn = UNITS_A_TAP % 8 == 0 ? pixel & 7 : UNITS_A_TAP == 4 ? (pixel >> 1) & 3
                   : UNITS_A_TAP == 2 ? (pixel >> 2) & 1 : 0;
        return (pixel * UNITS_A_TAP + (unit ^ turn)) * 16;
    }

    __device__ inline const unsigned char* row(const Convolution& p, int tile, int chunk) const {
        int tap = min((unsigned)chunk / UNITS_A_TAP, KERNEL * KERNEL - 1u);  // behind the last, weights are zero
        int unit = (unsigned)chunk % UNITS_A_TAP;
        return shared + place(base[tile] + tap / KERNEL * p.patch_width + tap % KERNEL, unit);
    }
};
#endif

extern "C" __global__ void __launch_bounds__(THREADS) convolution(const Convolution p) {
    DYNAMIC_SHARED(shared);
    allow_next_kernel();
    int first_column = blockIdx.y * COLUMNS;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int warp_row = warp % ROW_WARPS * WARP_ROWS;
    int warp_column = warp / ROW_WARPS % COLUMN_WARPS * WARP_COLUMNS;
    int warp_slice = warp / (ROW_WARPS * COLUMN_WARPS);
    unsigned char* ring = shared + p.patch_bytes;

    WeightCopier weights(p, first_column);
#pragma unroll 1
    for (int stage = 0; stage < STAGES - 1; ++stage)
        if (stage < p.steps) weights.copy(p, ring + stage * STAGE_BYTES + STAGE_ROWS * DEPTH);
#if UNITS_A_TAP
    wait_for_last_kernel();
    Patch patch;
    Rows rows = patch.copy(p, shared, warp_row);
#pragma unroll
    for (int stage = 0; stage < STAGES - 1; ++stage) commit_copies();
#else
    Rows rows = {(int)blockIdx.x * ROWS, min(ROWS, p.rows - (int)blockIdx.x * ROWS)};
    InputCopier input(p, rows.first);
    wait_for_last_kernel();
#pragma unroll 1
    for (int stage = 0; stage < STAGES - 1; ++stage) {
        if (stage < p.steps) input.copy(p, ring + stage * STAGE_BYTES);
        commit_copies();
    }
#endif

    Sum sums[ROW_TILES][COLUMN_TILES][4] = {};
    int at = 0, next = STAGES - 1;  // stages of the ring
#pragma unroll 1
    for (int step = 0; step < p.steps; ++step) {
        wait_for_copies<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < p.steps) {
            unsigned char* tile = ring + next * STAGE_BYTES;
#if !UNITS_A_TAP
            input.copy(p, tile);
#endif
            weights.copy(p, tile + STAGE_ROWS * DEPTH);
        }
        commit_copies();
        const unsigned char* tile_rows = ring + at * STAGE_BYTES;
        const unsigned char* columns = tile_rows + STAGE_ROWS * DEPTH;
        at = at + 1 == STAGES ? 0 : at + 1;
        next = next + 1 == STAGES ? 0 : next + 1;
#pragma unroll
        for (int i = 0; i < SLICES; ++i) {
            int chunk = 2 * (i * DEPTH_WARPS + warp_slice);
            unsigned a[ROW_TILES][4], b[COLUMN_TILES / 2][4];
#pragma unroll
            for (int tile = 0; tile < ROW_TILES; ++tile)
#if UNITS_A_TAP
                load_matrices(a[tile], patch.row(p, tile, step * CHUNKS + chunk + lane / 16));
#else
                load_matrices(a[tile], tile_rows + chunk_at(warp_row + tile * 16 + lane % 16, chunk + lane / 16));
#endif
#pragma unroll
            for (int pair = 0; pair < COLUMN_TILES / 2; ++pair)
                load_matrices(b[pair], columns + chunk_at(warp_column + pair * 16 + lane % 8 + lane / 16 * 8,
                                                          chunk + lane / 8 % 2));
#pragma unroll
            for (int tile = 0; tile < ROW_TILES; ++tile)
#pragma unroll
                for (int other = 0; other < COLUMN_TILES; ++other)
                    multiply(sums[tile][other], a[tile], b[other / 2][other % 2 * 2], b[other / 2][other % 2 * 2 + 1]);
        }
    }
    wait_for_copies<0>();
    __syncthreads();

    if constexpr (DEPTH_WARPS == 1) {
#pragma unroll
        for (int other = 0; other < COLUMN_TILES; ++other) {
            int column = warp_column + other * 8 + lane % 4 * 2, channel = first_column + column;
            if (channel >= p.columns) continue;
            float2 factor = *(const float2*)(p.factors + channel), offset = *(const float2*)(p.offsets + channel);
#pragma unroll
            for (int tile = 0; tile < ROW_TILES; ++tile)
#pragma unroll
                for (int low = 0; low < 2; ++low)
                    stage_result(p, shared, warp_row + tile * 16 + low * 8 + lane / 4, column, channel,
                          p.epilogue.apply<PLAIN>((float)sums[tile][other][2 * low], factor.x, offset.x),
                          p.epilogue.apply<PLAIN>((float)sums[tile][other][2 * low + 1], factor.y, offset.y));
        }
    } else {
        Sum* all = (Sum*)shared;
#pragma unroll
        for (int tile = 0; tile < ROW_TILES; ++tile)
#pragma unroll
            for (int other = 0; other < COLUMN_TILES; ++other)
#pragma unroll
                for (int low = 0; low < 2; ++low) {
                    int row = warp_slice * ROWS + warp_row + tile * 16 + low * 8 + lane / 4;
                    Sum* to = all + row * SUMS_PITCH + warp_column + other * 8 + lane % 4 * 2;
                    to[0] = sums[tile][other][2 * low];
                    to[1] = sums[tile][other][2 * low + 1];
                }
        __syncthreads();
        constexpr int PAIRS = COLUMNS / 2;
        for (unsigned i = threadIdx.x; i < ROWS * PAIRS; i += THREADS) {
            int row = i / PAIRS, column = i % PAIRS * 2, channel = first_column + column;
            if (channel >= p.columns) continue;
            Sum total[2] = {};
#pragma unroll
            for (int slice = 0; slice < DEPTH_WARPS; ++slice)
#pragma unroll
                for (int j = 0; j < 2; ++j) total[j] += all[(slice * ROWS + row) * SUMS_PITCH + column + j];
            float2 factor = *(const float2*)(p.factors + channel), offset = *(const float2*)(p.offsets + channel);
            stage_result(p, shared + RESULT_AT, row, column, channel, p.epilogue.apply<PLAIN>((float)total[0], factor.x, offset.x),
                  p.epilogue.apply<PLAIN>((float)total[1], factor.y, offset.y));
        }
    }
    __syncthreads();
    const unsigned char* result = shared + RESULT_AT;
    if constexpr (STORES_BYTES)
        store_all<signed char>(p, result, rows, first_column);
    else
        store_all<__half>(p, result, rows, first_column);
}

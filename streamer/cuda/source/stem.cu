// The first layers of a network in one kernel: a convolution of the int8 picture, its activation and quantisation, and
// 3x3 max pooling with stride 2. The convolution's result, the largest tensor of a network, stays in shared memory.
//
// A pixel of the picture is one word of four channels. So a register of a matrix instruction's left operand, four bytes
// of a row, is one tap of one output pixel, and is loaded from the picture's tile as it is.
#include "warp.cuh"

struct Stem {  // streamer/engines/int8/parameters.py (STEM) has the same fields
    const unsigned* input;
    const unsigned char* weights;  // (32, 64) int8: of each output channel 16 taps of four channels
    const float* factors;          // of each channel: scales of input and weights over the output's
    const float* offsets;          // bias over the output's scale
    signed char* output;
    int input_height, input_width;
    int middle_height, middle_width;  // of the convolution's result
    int output_height, output_width, output_pitch;
    int kernel_height, kernel_width, stride, pad_top, pad_left;
    int blocks_down;  // of each picture
    int words;        // of four channels of the result
    int tile_pitch, tile_height;  // of the picture's tile, in pixels; the pitch is a multiple of 4
    unsigned fill;
    Epilogue epilogue;
    Divisor by_quads, by_kernel_width;  // by_quads: of four pixels of the tile
};

enum {
    POOLED = 8,              // rows and columns of a block's result
    MIDDLE = 2 * POOLED + 1,  // of the convolution's
    WARPS = 4,
    THREADS = 32 * WARPS,
    CHANNELS = 32,
    WORDS = CHANNELS / 4,
    QUADS = CHANNELS / 16,
    LARGEST_TILE = 41 * 48,  // pixels of the picture's tile: stride 2 and a kernel of up to 9, or less
    TILES = (MIDDLE * MIDDLE + 15) / 16,
    COLUMN_TILES = CHANNELS / 8,
};

extern "C" __global__ void __launch_bounds__(THREADS) stem(const Stem p) {
    alignas(16) __shared__ unsigned picture[LARGEST_TILE];
    alignas(16) __shared__ unsigned middle[TILES * 16 * WORDS];
    allow_next_kernel();
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int image = blockIdx.y / p.blocks_down, block_row = blockIdx.y - image * p.blocks_down;
    int first_y = block_row * POOLED, first_x = blockIdx.x * POOLED;
    int top = 2 * first_y - 1, left = 2 * first_x - 1;  // of the convolution's result

    unsigned b[COLUMN_TILES][4];
    float factors[COLUMN_TILES][2], offsets[COLUMN_TILES][2];
#pragma unroll
    for (int tile = 0; tile < COLUMN_TILES; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            b[tile][i] = ((const unsigned*)p.weights)[(tile * 8 + lane / 4) * 16 + i * 4 + lane % 4];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            factors[tile][i] = p.factors[tile * 8 + lane % 4 * 2 + i];
            offsets[tile][i] = p.offsets[tile * 8 + lane % 4 * 2 + i];
        }
    }
    wait_for_last_kernel();
    int picture_top = top * p.stride - p.pad_top, picture_left = left * p.stride - p.pad_left;
    int shift = picture_left & 3, first_column = picture_left - shift;  // copies begin at a multiple of 4 pixels
    const unsigned* pixels = p.input + (long long)image * p.input_height * p.input_width;
    int quads = p.tile_pitch / 4;
#pragma unroll 1
    for (int i = threadIdx.x; i < quads * p.tile_height; i += THREADS) {
        int row = divide(i, p.by_quads);
        int y = picture_top + row, x = first_column + 4 * (i - row * quads);
        bool inside = (unsigned)y < (unsigned)p.input_height && (unsigned)x < (unsigned)p.input_width;
        const unsigned* from = pixels + (long long)(y * p.input_width + x);  // not read outside
        if (PLAIN) {
            copy_async_or_zero(picture + 4 * i, from, inside);
        } else if (inside) {
            copy_async<16>(picture + 4 * i, from);
        } else {
            for (int j = 0; j < 4; ++j) picture[4 * i + j] = p.fill;
        }
    }
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();

    int taps[4];  // this lane's taps of each group of four, in words of the tile; behind the last, weights are zero
    int count = p.kernel_height * p.kernel_width;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        int tap = min(4 * i + lane % 4, count - 1), row = divide(tap, p.by_kernel_width);
        taps[i] = row * p.tile_pitch + tap - row * p.kernel_width + shift;
    }
#pragma unroll 1
    for (int tile = warp; tile < TILES; tile += WARPS) {
        int at[2];
        unsigned kept[2];  // all bits, or none outside the convolution's result, which pooling ignores
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            unsigned pixel = min(tile * 16 + lane / 4 + 8 * i, MIDDLE * MIDDLE - 1);
            int y = pixel / MIDDLE, x = pixel % MIDDLE;
            at[i] = (y * p.tile_pitch + x) * p.stride;
            bool inside = (unsigned)(top + y) < (unsigned)p.middle_height && (unsigned)(left + x) < (unsigned)p.middle_width;
            kept[i] = inside ? ~0u : 0;
        }
        int sums[COLUMN_TILES][4] = {};
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            unsigned a[4] = {picture[at[0] + taps[2 * half]], picture[at[1] + taps[2 * half]],
                             picture[at[0] + taps[2 * half + 1]], picture[at[1] + taps[2 * half + 1]]};
#pragma unroll
            for (int other = 0; other < COLUMN_TILES; ++other)
                multiply(sums[other], a, b[other][2 * half], b[other][2 * half + 1]);
        }
        unsigned short* to = (unsigned short*)middle + (tile * 16 + lane / 4) * 2 * WORDS + lane % 4;
#pragma unroll
        for (int low = 0; low < 2; ++low)
#pragma unroll
            for (int other = 0; other < COLUMN_TILES; ++other) {
                int levels[2];
#pragma unroll
                for (int i = 0; i < 2; ++i)
                    levels[i] = p.epilogue.round<PLAIN>(p.epilogue.apply<PLAIN>(
                        (float)sums[other][2 * low + i], factors[other][i], offsets[other][i]));
                unsigned pair = (pack_int8(levels[0], levels[1]) & kept[low]) | (0x8080 & ~kept[low]);
                to[low * 8 * 2 * WORDS + other * 4] = (unsigned short)pair;
            }
    }
    __syncthreads();

    for (unsigned i = threadIdx.x; i < POOLED * POOLED * QUADS; i += THREADS) {
        int pixel = i / QUADS, quad = i % QUADS;
        int y = pixel / POOLED, x = pixel % POOLED;
        if (first_y + y >= p.output_height || first_x + x >= p.output_width || 4 * quad >= p.words) continue;
        const uint4* from = (const uint4*)middle + (2 * y * MIDDLE + 2 * x) * QUADS + quad;
        uint4 most = from[0];
#pragma unroll
        for (int tap = 1; tap < 9; ++tap) {
            uint4 words = from[(tap / 3 * MIDDLE + tap % 3) * QUADS];
            most.x = __vmaxs4(most.x, words.x);
            most.y = __vmaxs4(most.y, words.y);
            most.z = __vmaxs4(most.z, words.z);
            most.w = __vmaxs4(most.w, words.w);
        }
        long long to = (long long)(image * p.output_height + first_y + y) * p.output_width + first_x + x;
        *(uint4*)(p.output + to * p.output_pitch + 16 * quad) = most;
    }
}

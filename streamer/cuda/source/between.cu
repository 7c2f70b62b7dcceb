// What stands between a quantised network's convolutions: depthwise convolutions, max pooling, sums, resizing,
// conversions and copies of channels. Pictures are NHWC, int8 or float16; each thread computes four channels of a pixel.
#include "warp.cuh"

enum Form { INT8 = 0, FLOAT16 = 1 };

struct Window {  // streamer/engines/int8/parameters.py (WINDOW): a depthwise convolution or max pooling
    const unsigned char* input;
    // depthwise int8: (taps / 4, channels, 4) int8, or (height, width / 4, channels, 4) of rows; float16: (taps, channels)
    // float32
    const void* weights;
    const float* factors;  // of each channel: scales of input and weights over the output's
    const float* offsets;  // bias over the output's scale
    void* output;
    int input_height, input_width, input_pitch;     // the pitch: elements from pixel to pixel
    int output_height, output_width, output_pitch;  // likewise
    int pixels, channels;                           // of the output; channels a multiple of 4
    int kernel_height, kernel_width, stride, pad_top, pad_left;
    int input_form, form;
    unsigned fill;
    Epilogue epilogue;
    Divisor by_parts, by_width, by_height;  // by_width: of the output, or of its quads of pixels (depthwise rows)
};

struct Operand {
    const void* address;
    const int* rows;     // (2, height of the output) taps, null if the sizes are equal
    const int* columns;  // (2, width of the output)
    const float* weights;  // of the second tap, of each row and then of each column
    int form, pitch, height, width;
    int has_quarters;  // weights are multiples of 1/4, and the form is int8
    float scale;
    int zero_point;
    float rounded_scale;  // unless 0, the value is quantised with this scale before it is used
    float rounded_steps;  // 1 / rounded_scale
    int rounded_zero_point;
};

struct Combination {  // streamer/engines/int8/parameters.py (COMBINATION): the sum of one or two operands
    Operand operands[2];
    void* output;
    int count, height, width, pitch, pixels, channels, form;
    float steps;  // 1 / scale of the result
    Epilogue epilogue;
    Divisor by_parts, by_width, by_height;
};

struct Copy {  // streamer/engines/int8/parameters.py (COPY)
    const unsigned char* input;
    unsigned char* output;
    const int* channels;  // (2, count): channels of the input, and where they go in the output
    int count, pixels, input_pitch, output_pitch, size;
    Divisor by_count;
};

__device__ inline int thread_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

__device__ inline void load_four(float* to, const void* at, int form, float scale, int zero_point) {
    if (form == INT8) {
        unsigned word = *(const unsigned*)at;
        for (int i = 0; i < 4; ++i) to[i] = (float)((int)(signed char)(word >> 8 * i) - zero_point) * scale;
    } else {
        uint2 words = *(const uint2*)at;
        const __half* halves = (const __half*)&words;
        for (int i = 0; i < 4; ++i) to[i] = __half2float(halves[i]);
    }
}

__device__ inline void store_four(void* output, long long at, int form, const float* values, const Epilogue& epilogue) {
    if (form == INT8) {
        *(unsigned*)((signed char*)output + at) = epilogue.pack(values[0], values[1], values[2], values[3]);
    } else {
        uint2 words;
        __half* halves = (__half*)&words;
        for (int i = 0; i < 4; ++i) halves[i] = __float2half_rn(values[i]);
        *(uint2*)((__half*)output + at) = words;
    }
}

// Makes of four words of four bytes four words of their first, second, third and fourth bytes.
__device__ inline void transpose(const unsigned* words, unsigned* to) {
    unsigned low[2] = {__byte_perm(words[0], words[1], 0x5140), __byte_perm(words[2], words[3], 0x5140)};
    unsigned high[2] = {__byte_perm(words[0], words[1], 0x7362), __byte_perm(words[2], words[3], 0x7362)};
    to[0] = __byte_perm(low[0], low[1], 0x5410);
    to[1] = __byte_perm(low[0], low[1], 0x7632);
    to[2] = __byte_perm(high[0], high[1], 0x5410);
    to[3] = __byte_perm(high[0], high[1], 0x7632);
}

struct Pixel {
    int channel, left, top;
    long long image, at;
};

// The four channels of this thread, and where its window begins.
__device__ inline bool find_pixel(const Window& p, Pixel* found) {
    int parts = p.channels / 4, index = thread_index();
    int pixel = divide(index, p.by_parts);
    if (pixel >= p.pixels) return false;
    int row = divide(pixel, p.by_width), image = divide(row, p.by_height);
    found->channel = (index - pixel * parts) * 4;
    found->left = (pixel - row * p.output_width) * p.stride - p.pad_left;
    found->top = (row - image * p.output_height) * p.stride - p.pad_top;
    found->image = (long long)image * p.input_height;
    found->at = (long long)pixel * p.output_pitch + found->channel;
    return true;
}

__device__ inline bool is_inside(const Window& p, int x, int y) {
    return (unsigned)x < (unsigned)p.input_width && (unsigned)y < (unsigned)p.input_height;
}

__device__ inline long long input_at(const Window& p, const Pixel& pixel, int x, int y) {
    return ((pixel.image + y) * p.input_width + x) * p.input_pitch + pixel.channel;
}

__device__ inline void finish_depthwise(const Window& p, const int* sums, int channel, long long at) {
    float4 factors = *(const float4*)(p.factors + channel), offsets = *(const float4*)(p.offsets + channel);
    float values[4] = {p.epilogue.apply((float)sums[0], factors.x, offsets.x),
                       p.epilogue.apply((float)sums[1], factors.y, offsets.y),
                       p.epilogue.apply((float)sums[2], factors.z, offsets.z),
                       p.epilogue.apply((float)sums[3], factors.w, offsets.w)};
    store_four(p.output, at, p.form, values, p.epilogue);
}

// Four taps at a time: their words hold four channels each, and are transposed to four taps of each channel.
template <int SIZE> __device__ inline void depthwise(const Window& p) {
    Pixel pixel;
    if (!find_pixel(p, &pixel)) return;
    int sums[4] = {};
#pragma unroll
    for (int group = 0; group < (SIZE * SIZE + 3) / 4; ++group) {
        unsigned words[4] = {}, taps[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int tap = 4 * group + i;
            if (tap >= SIZE * SIZE) break;
            int x = pixel.left + tap % SIZE, y = pixel.top + tap / SIZE;
            words[i] = is_inside(p, x, y) ? *(const unsigned*)(p.input + input_at(p, pixel, x, y)) : p.fill;
        }
        transpose(words, taps);
        int4 weights = ((const int4*)p.weights)[(group * p.channels + pixel.channel) / 4];
        sums[0] = __dp4a((int)taps[0], weights.x, sums[0]);
        sums[1] = __dp4a((int)taps[1], weights.y, sums[1]);
        sums[2] = __dp4a((int)taps[2], weights.z, sums[2]);
        sums[3] = __dp4a((int)taps[3], weights.w, sums[3]);
    }
    finish_depthwise(p, sums, pixel.channel, pixel.at);
}

// Four neighbouring pixels of a row with stride 1: each word is loaded once for all of them. A row of the kernel is four
// taps, and for a size of 5 another one.
template <int SIZE> __device__ inline void depthwise_row(const Window& p) {
    int parts = p.channels / 4, index = thread_index();
    int quad = divide(index, p.by_parts), row = divide(quad, p.by_width), image = divide(row, p.by_height);
    int quads = (p.output_width + 3) / 4;
    int channel = (index - quad * parts) * 4, first = (quad - row * quads) * 4;
    if (image * p.output_height * p.output_width >= p.pixels) return;
    int top = row - image * p.output_height - p.pad_top, left = first - p.pad_left;
    int sums[4][4] = {};
#pragma unroll
    for (int down = 0; down < SIZE; ++down) {
        int y = top + down;
        bool is_row = (unsigned)y < (unsigned)p.input_height;
        const unsigned char* from =
            p.input + ((long long)(image * p.input_height + y) * p.input_width + left) * p.input_pitch + channel;
        unsigned words[8] = {}, near[4], far[4];
#pragma unroll
        for (int i = 0; i < SIZE + 3; ++i)
            words[i] = is_row && (unsigned)(left + i) < (unsigned)p.input_width
                           ? *(const unsigned*)(from + i * p.input_pitch) : p.fill;
        transpose(words, near);
        transpose(words + 4, far);
        int4 weights[2];
#pragma unroll
        for (int i = 0; i < (SIZE + 3) / 4; ++i)
            weights[i] = ((const int4*)p.weights)[((down * ((SIZE + 3) / 4) + i) * p.channels + channel) / 4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                unsigned taps = i == 0 ? near[c] : __funnelshift_r(near[c], far[c], 8 * i);
                sums[i][c] = __dp4a((int)taps, (&weights[0].x)[c], sums[i][c]);
                if (SIZE > 4) sums[i][c] = __dp4a((int)(far[c] >> 8 * i), (&weights[1].x)[c], sums[i][c]);
            }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (first + i < p.output_width)
            finish_depthwise(p, sums[i], channel,
                             ((long long)row * p.output_width + first + i) * p.output_pitch + channel);
}

#define DEPTHWISE(name, call)                            \
    extern "C" __global__ void name(const Window p) {    \
        allow_next_kernel();                             \
        wait_for_last_kernel();                          \
        call(p);                                         \
    }

DEPTHWISE(depthwise3, depthwise<3>)
DEPTHWISE(depthwise5, depthwise<5>)
DEPTHWISE(depthwise_row3, depthwise_row<3>)
DEPTHWISE(depthwise_row5, depthwise_row<5>)

extern "C" __global__ void depthwise_float16(const Window p) {
    allow_next_kernel();
    wait_for_last_kernel();
    Pixel pixel;
    if (!find_pixel(p, &pixel)) return;
    float sums[4] = {}, values[4];
    for (int tap = 0; tap < p.kernel_height * p.kernel_width; ++tap) {
        int x = pixel.left + tap % p.kernel_width, y = pixel.top + tap / p.kernel_width;
        if (!is_inside(p, x, y)) continue;
        load_four(values, (const __half*)p.input + input_at(p, pixel, x, y), FLOAT16, 1.0f, 0);
        const float* weights = (const float*)p.weights + tap * p.channels + pixel.channel;
        for (int i = 0; i < 4; ++i) sums[i] += values[i] * weights[i];
    }
    for (int i = 0; i < 4; ++i)
        values[i] = p.epilogue.apply(sums[i], p.factors[pixel.channel + i], p.offsets[pixel.channel + i]);
    store_four(p.output, pixel.at, p.form, values, p.epilogue);
}

extern "C" __global__ void pool(const Window p) {
    allow_next_kernel();
    wait_for_last_kernel();
    Pixel pixel;
    if (!find_pixel(p, &pixel)) return;
    float most[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY}, values[4];
    unsigned most_int8 = 0x80808080;
    for (int tap = 0; tap < p.kernel_height * p.kernel_width; ++tap) {
        int x = pixel.left + tap % p.kernel_width, y = pixel.top + tap / p.kernel_width;
        if (!is_inside(p, x, y)) continue;
        if (p.form == INT8) {
            most_int8 = __vmaxs4(most_int8, *(const unsigned*)(p.input + input_at(p, pixel, x, y)));
        } else {
            load_four(values, (const __half*)p.input + input_at(p, pixel, x, y), FLOAT16, 1.0f, 0);
            for (int i = 0; i < 4; ++i) most[i] = fmaxf(most[i], values[i]);
        }
    }
    if (p.form == INT8)
        *(unsigned*)((signed char*)p.output + pixel.at) = most_int8;
    else
        store_four(p.output, pixel.at, FLOAT16, most, p.epilogue);
}

// Steps from the zero point; `steps` is one over the scale.
__device__ inline float quantised(float value, float steps, int zero_point) {
    int rounded = __float2int_rn(value * steps);
    return (float)max(min(rounded, 127 - zero_point), -128 - zero_point);
}

__device__ inline void load_operand(const Operand& o, float* values, int image, int y, int x, int height, int width,
                                    int channel) {
    int size = o.form == INT8 ? 1 : 2;
    const char* first = (const char*)o.address + size * channel;
    long long start = (long long)image * o.height;
    if (o.rows == nullptr) {
        load_four(values, first + ((start + y) * o.width + x) * o.pitch * size, o.form, o.scale, o.zero_point);
    } else {
        float down = o.weights[y], across = o.weights[height + x], corners[4][4];
        const char* places[4];
#pragma unroll
        for (int tap = 0; tap < 4; ++tap) {
            long long pixel = (start + o.rows[tap / 2 * height + y]) * o.width + o.columns[tap % 2 * width + x];
            places[tap] = first + pixel * o.pitch * size;
        }
        if (o.has_quarters) {  // in whole sixteenths
            int b = (int)(4.0f * down), a = (int)(4.0f * across);
            int weights = (4 - b) * (4 - a) | (4 - b) * a << 8 | b * (4 - a) << 16 | b * a << 24;
            unsigned words[4], taps[4];
#pragma unroll
            for (int tap = 0; tap < 4; ++tap) words[tap] = *(const unsigned*)places[tap];
            transpose(words, taps);
#pragma unroll
            for (int i = 0; i < 4; ++i)
                values[i] = (float)__dp4a((int)taps[i], weights, -16 * o.zero_point) * (o.scale * 0.0625f);
        } else {
#pragma unroll
            for (int tap = 0; tap < 4; ++tap) load_four(corners[tap], places[tap], o.form, o.scale, o.zero_point);
#pragma unroll
            for (int i = 0; i < 4; ++i)
                values[i] = (1.0f - down) * (1.0f - across) * corners[0][i] + (1.0f - down) * across * corners[1][i] +
                            down * (1.0f - across) * corners[2][i] + down * across * corners[3][i];
        }
    }
    if (o.rounded_scale != 0.0f)
        for (int i = 0; i < 4; ++i)
            values[i] = quantised(values[i], o.rounded_steps, o.rounded_zero_point) * o.rounded_scale;
}

extern "C" __global__ void combine(const Combination p) {
    allow_next_kernel();
    wait_for_last_kernel();
    int parts = p.channels / 4, index = thread_index();
    int pixel = divide(index, p.by_parts), channel = (index - pixel * parts) * 4;
    if (pixel >= p.pixels) return;
    int row = divide(pixel, p.by_width), image = divide(row, p.by_height);
    int x = pixel - row * p.width, y = row - image * p.height;
    float values[4], others[4] = {};
    load_operand(p.operands[0], values, image, y, x, p.height, p.width, channel);
    if (p.count > 1) load_operand(p.operands[1], others, image, y, x, p.height, p.width, channel);
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = p.epilogue.apply(values[i] + others[i], 1.0f, 0.0f) * p.steps;
    store_four(p.output, (long long)pixel * p.pitch + channel, p.form, values, p.epilogue);
}

// One operand of int8, sixteen channels at a time: the same arithmetic as `load_operand`.
__device__ inline void add_operand(const Operand& o, float* values, int image, int y, int x, int height, int width,
                                   int channel) {
    const char* first = (const char*)o.address + channel;
    long long start = (long long)image * o.height;
    uint4 corners[4];
    int weights = 1;
    bool enlarges = o.rows != nullptr;
    if (enlarges) {
        int b = (int)(4.0f * o.weights[y]), a = (int)(4.0f * o.weights[height + x]);
        weights = (4 - b) * (4 - a) | (4 - b) * a << 8 | b * (4 - a) << 16 | b * a << 24;
#pragma unroll
        for (int tap = 0; tap < 4; ++tap) {
            long long pixel = (start + o.rows[tap / 2 * height + y]) * o.width + o.columns[tap % 2 * width + x];
            corners[tap] = *(const uint4*)(first + pixel * o.pitch);
        }
    } else {
        corners[0] = *(const uint4*)(first + ((start + y) * o.width + x) * o.pitch);
    }
    float scale = enlarges ? o.scale * 0.0625f : o.scale;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
        unsigned words[4], taps[4];
        if (enlarges) {
#pragma unroll
            for (int tap = 0; tap < 4; ++tap) words[tap] = (&corners[tap].x)[part];
            transpose(words, taps);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            int level = enlarges ? __dp4a((int)taps[i], weights, -16 * o.zero_point)
                                 : (int)(signed char)((&corners[0].x)[part] >> 8 * i) - o.zero_point;
            float value = (float)level * scale;
            if (o.rounded_scale != 0.0f)
                value = quantised(value, o.rounded_steps, o.rounded_zero_point) * o.rounded_scale;
            values[4 * part + i] += value;
        }
    }
}

// The sum of int8 operands as int8, where resizing has quarters; `channels` is a multiple of 16.
extern "C" __global__ void combine_int8(const Combination p) {
    allow_next_kernel();
    wait_for_last_kernel();
    int parts = p.channels / 16, index = thread_index();
    int pixel = divide(index, p.by_parts), channel = (index - pixel * parts) * 16;
    if (pixel >= p.pixels) return;
    int row = divide(pixel, p.by_width), image = divide(row, p.by_height);
    int x = pixel - row * p.width, y = row - image * p.height;
    float values[16] = {};
    add_operand(p.operands[0], values, image, y, x, p.height, p.width, channel);
    if (p.count > 1) add_operand(p.operands[1], values, image, y, x, p.height, p.width, channel);
    uint4 words;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            values[4 * part + i] = p.epilogue.apply(values[4 * part + i], 1.0f, 0.0f) * p.steps;
        const float* four = values + 4 * part;
        (&words.x)[part] = p.epilogue.pack(four[0], four[1], four[2], four[3]);
    }
    *(uint4*)((signed char*)p.output + (long long)pixel * p.pitch + channel) = words;
}

extern "C" __global__ void copy_channels(const Copy p) {
    allow_next_kernel();
    wait_for_last_kernel();
    int index = thread_index();
    int pixel = divide(index, p.by_count), at = index - pixel * p.count;
    if (pixel >= p.pixels) return;
    const unsigned char* from = p.input + ((long long)pixel * p.input_pitch + p.channels[at]) * p.size;
    unsigned char* to = p.output + ((long long)pixel * p.output_pitch + p.channels[p.count + at]) * p.size;
    for (int i = 0; i < p.size; ++i) to[i] = from[i];
}

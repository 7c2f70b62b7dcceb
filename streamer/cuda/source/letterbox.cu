// Letterbox, bilinear resize, colour conversion and normalisation in one pass: one thread for each input pixel.
//
// The arithmetic is that of OpenCV's INTER_LINEAR for 8-bit pictures (weights of 11 bits, a shift in between:
// modules/imgproc/src/resize.cpp, VResizeLinear), so that GPU and CPU give the network the same levels.
#include <cuda_fp16.h>

#include "picture.cuh"

struct Tap {
    int first, second;     // the two source rows (or columns) of one output row (or column)
    int weight0, weight1;  // their weights, of 2048
};

__device__ inline float position(int index, int source, int resized) {
    double scale = 1.0 / ((double)resized / source);
    return (float)((index + 0.5) * scale - 0.5);
}

__device__ inline Tap make_tap(int first, int second, float weight) {
    Tap tap = {first, second, __float2int_rn((1.0f - weight) * 2048.0f), __float2int_rn(weight * 2048.0f)};
    return tap;
}

// Beyond the first and last column the nearest one has the whole weight.
__device__ inline Tap columns(int index, int source, int resized) {
    float at = position(index, source, resized);
    int first = (int)floorf(at);
    if (first < 0) return make_tap(0, 0, 0.0f);
    if (first >= source - 1) return make_tap(source - 1, source - 1, 0.0f);
    return make_tap(first, first + 1, at - first);
}

// Beyond the first and last row the nearest one is used twice, with both weights.
__device__ inline Tap rows(int index, int source, int resized, bool packed) {
    float at = position(index, source, resized);
    int first = (int)floorf(at);
    float weight = at - first;
    if (packed) return make_tap(2 * index, 2 * index + 1, weight);
    return make_tap(min(max(first, 0), source - 1), min(max(first + 1, 0), source - 1), weight);
}

// One channel of a picture's plane; `step` is the distance between neighbouring pixels in bytes.
__device__ inline int sample(unsigned long long plane, int pitch, int step, Tap x, Tap y) {
    const unsigned char* top = (const unsigned char*)plane + (long long)y.first * pitch;
    const unsigned char* bottom = (const unsigned char*)plane + (long long)y.second * pitch;
    int a = top[x.first * step] * x.weight0 + top[x.second * step] * x.weight1;
    int b = bottom[x.first * step] * x.weight0 + bottom[x.second * step] * x.weight1;
    return ((y.weight0 * (a >> 4) >> 16) + (y.weight1 * (b >> 4) >> 16) + 2) >> 2;
}

__device__ inline float to_level(float value) { return fminf(fmaxf(rintf(value), 0.0f), 255.0f); }

__device__ inline void sample_bgr(const Picture& picture, int x, int y, float* bgr) {
    Tap across = columns(x, picture.width, picture.resized_width);
    Tap down = rows(y, picture.height, picture.resized_height, picture.packed[0]);
    if (picture.format == BGR) {
        for (int c = 0; c < 3; ++c) bgr[c] = (float)sample(picture.planes[0] + c, picture.pitches[0], 3, across, down);
        return;
    }
    int chroma_width = (picture.width + 1) / 2, chroma_height = (picture.height + 1) / 2;
    Tap chroma_across = columns(x, chroma_width, picture.resized_width);
    Tap chroma_down = rows(y, chroma_height, picture.resized_height, picture.packed[1]);
    bool interleaved = picture.format == NV12;
    unsigned long long v_plane = interleaved ? picture.planes[1] + 1 : picture.planes[2];
    int step = interleaved ? 2 : 1;
    int v_pitch = picture.pitches[interleaved ? 1 : 2];
    float luma = (float)sample(picture.planes[0], picture.pitches[0], 1, across, down);
    float u = (float)sample(picture.planes[1], picture.pitches[1], step, chroma_across, chroma_down);
    float v = (float)sample(v_plane, v_pitch, step, chroma_across, chroma_down);
    for (int c = 0; c < 3; ++c) {
        const float* row = picture.bgr_from_yuv + 4 * c;
        bgr[c] = to_level(row[0] * luma + row[1] * u + row[2] * v + row[3]);
    }
}

__device__ inline void store(float* at, float value, const float*) { *at = value; }
__device__ inline void store(__half* at, float value, const float*) { *at = __float2half_rn(value); }
__device__ inline void store(signed char* at, float value, const float* format) {
    *at = (signed char)fminf(fmaxf(rintf(value / format[0]) + format[1], -128.0f), 127.0f);
}

// Strides are in elements: (image, channel, row, column). `normalise` is three means, three factors, the padding, and
// scale and zero point of an int8 input.
template <typename T>
__device__ inline void letterbox(const Picture* pictures, T* input, int width, int height, long long image_stride,
                                 long long channel_stride, long long row_stride, long long column_stride,
                                 const float* normalise) {
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const Picture& picture = pictures[blockIdx.z];
    int inner_x = x - picture.offset_x, inner_y = y - picture.offset_y;
    float bgr[3] = {normalise[6], normalise[6], normalise[6]};
    if (inner_x >= 0 && inner_x < picture.resized_width && inner_y >= 0 && inner_y < picture.resized_height)
        sample_bgr(picture, inner_x, inner_y, bgr);
    T* pixel = input + blockIdx.z * image_stride + y * row_stride + x * column_stride;
    for (int c = 0; c < 3; ++c)
        store(pixel + c * channel_stride, (bgr[c] - normalise[c]) * normalise[3 + c], normalise + 7);
}

#define LETTERBOX(name, type)                                                                                        \
    extern "C" __global__ void name(const Picture* pictures, type* input, int width, int height,                    \
                                    long long image_stride, long long channel_stride, long long row_stride,         \
                                    long long column_stride, const float* normalise) {                              \
        letterbox(pictures, input, width, height, image_stride, channel_stride, row_stride, column_stride,          \
                  normalise);                                                                                        \
    }

LETTERBOX(letterbox_f32, float)
LETTERBOX(letterbox_f16, __half)
LETTERBOX(letterbox_i8, signed char)

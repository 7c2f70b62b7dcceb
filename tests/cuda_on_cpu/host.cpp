// The project's kernels as functions that a test calls through ctypes.
#include "letterbox.cu"

#include "decode.cu"

#define HOST_LETTERBOX(name, kernel, type)                                                                           \
    extern "C" void name(const Picture* pictures, type* input, int width, int height, const long long* strides,     \
                         const float* normalise, int batch) {                                                       \
        run({(unsigned)(width + 31) / 32, (unsigned)(height + 7) / 8, (unsigned)batch}, {32, 8, 1}, false, [&] {     \
            kernel(pictures, input, width, height, strides[0], strides[1], strides[2], strides[3], normalise);      \
        });                                                                                                          \
    }

HOST_LETTERBOX(host_letterbox_f32, letterbox_f32, float)
HOST_LETTERBOX(host_letterbox_f16, letterbox_f16, __half)

#define HOST_DECODE(name, kernel, type)                                                                              \
    extern "C" void name(const Picture* pictures, const type* output, const float* points,                          \
                         const unsigned char* wanted, int count, int classes, int bins, float conf, float width,    \
                         float height, float iou, int most, Result* results, int* found,                            \
                         unsigned long long* keys, Box* boxes, int capacity, int batch) {                               \
        unsigned blocks = (count * classes + 255) / 256;                                                             \
        run({blocks, (unsigned)batch, 1}, {256, 1, 1}, false, [&] {                                                  \
            kernel(output, points, wanted, count, classes, bins, conf, width, height, capacity, found, keys, boxes);     \
        });                                                                                                          \
        run({(unsigned)batch, 1, 1}, {4, 1, 1}, true, [&] {                                                          \
            suppress(pictures, found, keys, boxes, capacity, most, classes, iou, results);                               \
        });                                                                                                          \
    }

HOST_DECODE(host_decode_f32, find_f32, float)
HOST_DECODE(host_decode_f16, find_f16, __half)

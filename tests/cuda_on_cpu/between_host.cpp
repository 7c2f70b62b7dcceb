// The kernels of between.cu by name, as functions that a test calls through ctypes.
#include "between.cu"

#define HOST(name, type)                                                                                             \
    extern "C" void host_##name(const type* p, unsigned blocks, unsigned rows, unsigned threads) {                   \
        run({blocks, rows, 1}, {threads, 1, 1}, false, [&] { name(*p); });                                           \
    }

HOST(depthwise3, Window)
HOST(depthwise5, Window)
HOST(depthwise_row3, Window)
HOST(depthwise_row5, Window)
HOST(depthwise_float16, Window)
HOST(pool, Window)
HOST(combine, Combination)
HOST(combine_int8, Combination)
HOST(copy_channels, Copy)

extern "C" int size_of_window() { return sizeof(Window); }
extern "C" int size_of_combination() { return sizeof(Combination); }
extern "C" int size_of_copy() { return sizeof(Copy); }

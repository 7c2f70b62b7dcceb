// One tile of convolution.cu, as a function that a test calls through ctypes.
#include "convolution.cu"

extern "C" void host_convolution(const Convolution* p, unsigned blocks, unsigned rows, unsigned threads) {
    run({blocks, rows, 1}, {threads, 1, 1}, true, [&] { convolution(*p); });
}

extern "C" int size_of_convolution() { return sizeof(Convolution); }

// The kernel of stem.cu, as a function that a test calls through ctypes.
#include "stem.cu"

extern "C" void host_stem(const Stem* p, unsigned blocks, unsigned rows, unsigned threads) {
    run({blocks, rows, 1}, {threads, 1, 1}, true, [&] { stem(*p); });
}

extern "C" int size_of_stem() { return sizeof(Stem); }

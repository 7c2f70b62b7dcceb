// Stands in for CUDA's header of this name when g++ compiles the kernels.
#pragma once
#include "shim.hpp"

typedef _Float16 __half;
inline float __half2float(__half value) { return (float)value; }
inline __half __float2half_rn(float value) { return (__half)value; }

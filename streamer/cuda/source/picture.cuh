// One source picture: where its pixels are, and their transform into the network's input.
// Written on the host by streamer/cuda/input_layout.py (PICTURE_DTYPE), which must agree with this field by field.
#pragma once

enum PixelFormat { BGR = 0, PLANAR = 1, NV12 = 2 };

struct Picture {
    unsigned long long planes[3];  // addresses: BGR alone; or Y, U, V; or Y and interleaved UV
    int pitches[3];                // bytes from one row to the next
    int format;                    // PixelFormat
    int width, height;             // of the source, in pixels
    int resized_width, resized_height;
    int offset_x, offset_y;        // left and top padding in the network's input
    int packed[3];                 // whether a plane holds only the rows 2i and 2i + 1 of input row i
    int reserved;
    float bgr_from_yuv[12];        // affine map (3, 4), as streamer.frames.yuv_matrix.bgr_from_yuv returns it
};

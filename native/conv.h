// Convolutions on blocked tensors: what one instruction set offers for them, and a network of prepared steps.
//
// Knows shapes, packed weights and offsets into one arena. Knows nothing of how a scheme or an offset is chosen, nor of
// Python. A tensor is [batch][channels / block][height][width][block]: block is the lanes of a vector, or 1 for a
// planar tensor. Sums run over all input channels in a fixed order, so that a result depends on neither threads nor batch.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { CONV_VECTORS = 2 };    // vectors of outputs in a register tile, and in a panel of weights
enum { MAX_POINTS = 10 };     // of a Winograd transform: beyond, float32 loses too much

// Pixels `block` floats apart, times weights. Channels lie `plane` floats apart from block to block; each block is read at
// every tap (an offset in floats). Weights: [block of channels][tap][channel][vectors][lanes].
struct TileInput {
    const float* x;
    ptrdiff_t plane, channels, block;
    const ptrdiff_t* taps;
    ptrdiff_t tap_count;
    const float* weights;
};

// A block of sums is added to, or with sign -1 subtracted from, what is there.
struct TileTarget {
    float* out;
    float sign;
};

// Where sums go: to `targets`, or where there are none to out = clip(sum + bias + residual). bias, residual: may be null.
// Vectors of outputs lie `plane` floats apart.
struct TileOutput {
    float* out;
    ptrdiff_t plane;
    const float *bias, *residual;
    float low, high;
    const TileTarget* targets;
    ptrdiff_t target_count;
};

// A window over a blocked plane of height x width.
struct Window {
    ptrdiff_t height, width, out_height, out_width;
    ptrdiff_t kernel_y, kernel_x, stride_y, stride_x, top, left, dilation_y, dilation_x;
};

// 1-D transforms of several lines; a line's elements are vectors `step` floats apart, lines `line` floats apart.
struct Lines {
    const float* in;
    ptrdiff_t in_step, in_line;
    float* out;
    ptrdiff_t out_step, out_line, count;
};

struct ConvTable {
    ptrdiff_t lanes, rows;  // of a vector; pixels of the tallest register tile

    // Neighbouring pixels, times one panel of `vectors` vectors of outputs.
    void (*multiply)(const TileInput* in, ptrdiff_t pixels, ptrdiff_t vectors, const TileOutput* out);
    // Rows [first, last) of one block of channels. weights: [tap][lanes].
    void (*depthwise)(const Window* window, const float* in, const float* weights, const TileOutput* out,
                      ptrdiff_t first, ptrdiff_t last);
    void (*pool)(const Window* window, const float* in, float* out, ptrdiff_t first, ptrdiff_t last, bool average,
                 bool count_padding);
    // Winograd: `points` elements to `points`, and `points` to `outputs`. Cook-Toom points 0, 1/2, -1/2, 1, -1, ..., infinity.
    void (*transform_input)(ptrdiff_t points, const Lines* lines);
    void (*transform_output)(ptrdiff_t points, ptrdiff_t outputs, const Lines* lines);
    // out = clip(a + bias + residual) over vectors; residual may be null. bias: one vector, or null.
    void (*finish)(const float* a, ptrdiff_t vectors, const TileOutput* out);
    // out = a + sign * b over vectors.
    void (*combine)(const float* a, const float* b, float sign, ptrdiff_t vectors, float* out);
    // Planes of `pixels` floats, at most lanes of them, to one blocked plane (missing ones are zero), and back.
    void (*block)(const float* in, ptrdiff_t planes, ptrdiff_t pixels, float* out);
    void (*unblock)(const float* in, ptrdiff_t planes, ptrdiff_t pixels, float* out);
};

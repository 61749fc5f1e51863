// A network of prepared steps over one arena: everything was decided, packed and placed before it runs.
//
// Knows how a step's work is divided among threads. Knows nothing of Python; sizes were checked by the caller.
#pragma once
#include <functional>
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace ops {

enum Scheme { DIRECT = 0, IM2COL = 1, WINOGRAD = 2, STRASSEN = 3, DEPTHWISE = 4 };

// All in one order with kernels/convolution.py, which fills it. Offsets into the arena are in floats; -1: none.
struct Convolution {
    int64_t scheme, batch, channels, outputs;
    int64_t height, width, out_height, out_width;
    int64_t kernel_y, kernel_x, stride_y, stride_x, top, left, dilation_y, dilation_x;
    int64_t block;                // of the input: lanes, or 1
    int64_t tile_y, tile_x;       // outputs of a Winograd tile; 1: no transform along that axis
    int64_t levels;               // of Strassen's recursion
    int64_t chunk;                // rows (direct), pixels (im2col, Strassen) or tiles (Winograd) that a task takes
    int64_t input, output, residual, scratch, scratch_size;  // scratch_size: floats a thread
};

class Network {
  public:
    Network(int threads, const KernelTable* kernels) : pool_(threads), table_(kernels->convolution) {}

    const ConvTable& table() const { return *table_; }

    // weights: packed for the scheme, and lanes-padded bias (or null); both must outlive the network.
    void convolution(const Convolution& c, const float* weights, const float* bias, float low, float high);
    void pool(const Window& window, int64_t planes, int64_t input, int64_t output, bool average, bool count_padding);
    // output = clip(a + b), or clip(a) where b is -1.
    void add(int64_t a, int64_t b, int64_t output, int64_t floats, float low, float high);
    // `images` runs of `floats` floats, from one stride to another.
    void copy(int64_t input, int64_t output, int64_t images, int64_t floats, int64_t in_stride, int64_t out_stride);
    // Planar to blocked, or back.
    void layout(int64_t input, int64_t output, int64_t images, int64_t channels, int64_t pixels, bool to_blocks);

    // Steps [first, last), in the order in which they were added.
    void run(float* arena, size_t first, size_t last);
    size_t count() const { return steps_.size(); }

  private:
    template <class Work>
    void by_image(int64_t images, int64_t parts, Work work);

    Pool pool_;
    const ConvTable* table_;
    std::vector<std::function<void(float*)>> steps_;
};

}  // namespace ops

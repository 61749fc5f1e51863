#include "network.h"

#include <algorithm>
#include <cstring>

namespace ops {
namespace {

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// One convolution on one arena: a task is a chunk of one image and a run of panels of outputs.
struct Run {
    const Convolution& c;
    const ConvTable& k;
    const float *weights, *bias;
    float low, high;
    float* arena;

    int64_t blocks() const { return divide_up(c.channels, c.block); }
    int64_t out_blocks() const { return divide_up(c.outputs, k.lanes); }
    int64_t panels() const { return divide_up(out_blocks(), CONV_VECTORS); }
    int64_t pixels() const { return c.out_height * c.out_width; }
    int64_t out_plane() const { return pixels() * k.lanes; }
    int64_t vectors(int64_t panel) const { return std::min<int64_t>(CONV_VECTORS, out_blocks() - panel * CONV_VECTORS); }
    const float* image(int64_t n) const { return arena + c.input + n * blocks() * c.height * c.width * c.block; }

    // Outputs of a panel (or of any block of outputs) from a pixel on.
    TileOutput output(int64_t n, int64_t block, int64_t pixel) const {
        const int64_t at = (n * out_blocks() + block) * out_plane() + pixel * k.lanes;
        return {arena + c.output + at,
                out_plane(),
                bias ? bias + block * k.lanes : nullptr,
                c.residual < 0 ? nullptr : arena + c.residual + at,
                low,
                high,
                nullptr,
                0};
    }

    const float* panel_weights(int64_t panel, int64_t taps) const {
        return weights + panel * c.channels * taps * CONV_VECTORS * k.lanes;
    }

    // `columns` of an input row from x = first on, `step` apart; zeros outside the image.
    void copy_row(const float* plane, int64_t y, int64_t first, int64_t step, int64_t columns, float* out) const {
        const int64_t b = c.block;
        if (y < 0 || y >= c.height) {
            std::memset(out, 0, columns * b * sizeof(float));
            return;
        }
        const float* row = plane + y * c.width * b;
        const int64_t from = std::min(columns, first < 0 ? divide_up(-first, step) : 0);
        const int64_t to = std::max(from, std::min(columns, first < c.width ? (c.width - 1 - first) / step + 1 : 0));
        std::memset(out, 0, from * b * sizeof(float));
        if (step == 1)
            std::memcpy(out + from * b, row + (first + from) * b, (to - from) * b * sizeof(float));
        else if (b == 1)
            for (int64_t i = from; i < to; ++i) out[i] = row[first + i * step];
        else
            for (int64_t i = from; i < to; ++i)
                std::memcpy(out + i * b, row + (first + i * step) * b, b * sizeof(float));
        std::memset(out + to * b, 0, (columns - to) * b * sizeof(float));
    }

    bool padded() const {
        return c.top || c.left || (c.out_height - 1) * c.stride_y + (c.kernel_y - 1) * c.dilation_y >= c.height ||
               (c.out_width - 1) * c.stride_x + (c.kernel_x - 1) * c.dilation_x >= c.width;
    }

    // The rows that a chunk reads, padded; columns of one remainder by the stride together, so that neighbouring
    // outputs read neighbouring pixels.
    void direct(int64_t n, int64_t first, int64_t last, int64_t from, int64_t to, float* scratch) const {
        const int64_t phases = c.stride_x, b = c.block;
        const float* in = image(n);
        int64_t columns = c.width, rows = c.height, origin = 0, step_y = c.stride_y;
        const bool copied = padded() || phases > 1;
        if (copied) {
            columns = c.out_width + divide_up((c.kernel_x - 1) * c.dilation_x + 1, phases) - 1;
            rows = (last - first - 1) * c.stride_y + (c.kernel_y - 1) * c.dilation_y + 1;
            origin = first;
            float* out = scratch;
            for (int64_t block = 0; block < blocks(); ++block)
                for (int64_t y = 0; y < rows; ++y)
                    for (int64_t phase = 0; phase < phases; ++phase, out += columns * b)
                        copy_row(in + block * c.height * c.width * b, first * c.stride_y - c.top + y, phase - c.left,
                                 phases, columns, out);
            in = scratch;
        }
        const int64_t pitch = copied ? phases * columns * b : c.width * b;
        std::vector<ptrdiff_t> taps;
        for (int64_t i = 0; i < c.kernel_y; ++i)
            for (int64_t j = 0; j < c.kernel_x; ++j) {
                const int64_t x = j * c.dilation_x;
                taps.push_back(i * c.dilation_y * pitch + (x % phases * columns + x / phases) * b);
            }
        // Whole rows without anything between them are one run of pixels.
        const bool flat = !copied && c.out_width == c.width && c.stride_y == 1;
        for (int64_t panel = from; panel < to; ++panel)
            for (int64_t y = first; y < last; y += flat ? last - first : 1) {
                const TileInput tile{in + (y - origin) * step_y * pitch, rows * pitch, c.channels, b, taps.data(),
                                     (ptrdiff_t)taps.size(), panel_weights(panel, c.kernel_y * c.kernel_x)};
                const TileOutput out = output(n, panel * CONV_VECTORS, y * c.out_width);
                k.multiply(&tile, flat ? (last - first) * c.out_width : c.out_width, vectors(panel), &out);
            }
    }

    // Every pixel's patch side by side, so that the sums are one matrix product.
    void im2col(int64_t n, int64_t first, int64_t last, int64_t from, int64_t to, float* scratch) const {
        const int64_t b = c.block, count = last - first, taps_count = c.kernel_y * c.kernel_x;
        std::vector<ptrdiff_t> taps(taps_count);
        for (int64_t tap = 0; tap < taps_count; ++tap) taps[tap] = tap * count * b;
        for (int64_t block = 0; block < blocks(); ++block)
            for (int64_t tap = 0; tap < taps_count; ++tap) {
                const float* plane = image(n) + block * c.height * c.width * b;
                float* out = scratch + (block * taps_count + tap) * count * b;
                for (int64_t p = first; p < last;) {
                    const int64_t y = p / c.out_width, x = p % c.out_width;
                    const int64_t run = std::min(last - p, c.out_width - x);
                    copy_row(plane, y * c.stride_y - c.top + tap / c.kernel_x * c.dilation_y,
                             x * c.stride_x - c.left + tap % c.kernel_x * c.dilation_x, c.stride_x, run,
                             out + (p - first) * b);
                    p += run;
                }
            }
        for (int64_t panel = from; panel < to; ++panel) {
            const TileInput tile{scratch, taps_count * count * b, c.channels, b, taps.data(), (ptrdiff_t)taps_count,
                                 panel_weights(panel, taps_count)};
            const TileOutput out = output(n, panel * CONV_VECTORS, first);
            k.multiply(&tile, count, vectors(panel), &out);
        }
    }

    // Tiles [first, last) of an image: transformed inputs [point][block][tile], then for each panel of outputs all
    // products and the transform back. weights: [panel][point][channel][vectors][lanes].
    void winograd(int64_t n, int64_t first, int64_t last, int64_t from, int64_t to, float* scratch) const {
        const int64_t L = k.lanes, ty = c.tile_y, tx = c.tile_x;
        const int64_t py = ty + c.kernel_y - 1, px = tx + c.kernel_x - 1, points = py * px, count = last - first;
        const int64_t across = divide_up(c.out_width, tx), slab = blocks() * count * L;
        float *inputs = scratch, *products = inputs + points * slab, *tile = products + points * CONV_VECTORS * count * L,
              *half = tile + points * L;
        for (int64_t block = 0; block < blocks(); ++block)
            for (int64_t t = first; t < last; ++t) {
                const int64_t y = t / across * ty - c.top, x = t % across * tx - c.left;
                const float* plane = image(n) + block * c.height * c.width * L;
                const float* in = plane + (y * c.width + x) * L;
                int64_t pitch = c.width * L;
                if (y < 0 || x < 0 || y + py > c.height || x + px > c.width) {
                    for (int64_t i = 0; i < py; ++i) copy_row(plane, y + i, x, 1, px, tile + i * px * L);
                    in = tile;
                    pitch = px * L;
                }
                if (ty > 1 || c.kernel_y > 1) {
                    const Lines down{in, pitch, L, half, px * L, L, px};
                    k.transform_input(py, &down);
                    in = half;
                    pitch = px * L;
                }
                float* out = inputs + (block * count + t - first) * L;
                const Lines along{in, L, pitch, out, slab, px * slab, py};
                if (tx > 1 || c.kernel_x > 1)
                    k.transform_input(px, &along);
                else
                    for (int64_t i = 0; i < py; ++i) std::memcpy(out + i * slab, in + i * pitch, L * sizeof(float));
            }
        const ptrdiff_t here = 0;
        for (int64_t panel = from; panel < to; ++panel) {
            const int64_t wide = vectors(panel);
            const float* w = weights + panel * CONV_VECTORS * L * c.channels * points;
            for (int64_t point = 0; point < points; ++point, w += c.channels * wide * L) {
                const TileInput in{inputs + point * slab, count * L, c.channels, L, &here, 1, w};
                const TileOutput out{products + point * CONV_VECTORS * count * L, count * L, nullptr, nullptr,
                                     -__builtin_inff(), __builtin_inff(), nullptr, 0};
                k.multiply(&in, count, wide, &out);
            }
            for (int64_t v = 0; v < wide; ++v)
                for (int64_t t = first; t < last; ++t) back(n, panel * CONV_VECTORS + v, t, across,
                                                            products + (v * count + t - first) * L,
                                                            CONV_VECTORS * count * L, half, tile);
        }
    }

    // The products of one tile and block of outputs, `step` floats apart, to its pixels.
    void back(int64_t n, int64_t block, int64_t t, int64_t across, const float* in, int64_t step, float* half,
              float* tile) const {
        const int64_t L = k.lanes, ty = c.tile_y, tx = c.tile_x;
        const int64_t py = ty + c.kernel_y - 1, px = tx + c.kernel_x - 1;
        int64_t pitch = px * step;
        if (py > 1) {
            const Lines up{in, px * step, step, half, px * L, L, px};
            k.transform_output(py, ty, &up);
            in = half;
            step = L;
            pitch = px * L;
        }
        if (px > 1) {
            const Lines along{in, step, pitch, tile, L, tx * L, ty};
            k.transform_output(px, tx, &along);
            in = tile;
            pitch = tx * L;
        } else {
            pitch = L;
        }
        const int64_t y = t / across * ty, x = t % across * tx;
        const int64_t rows = std::min(ty, c.out_height - y), columns = std::min(tx, c.out_width - x);
        for (int64_t i = 0; i < rows; ++i) {
            const TileOutput out = output(n, block, (y + i) * c.out_width + x);
            k.finish(in + i * pitch, columns, &out);
        }
    }

    // Strassen's seven products at each level: sums of pixels' halves and channels' halves, times sums of weights
    // (made when they were packed), added to halves of pixels and outputs. Source: Strassen 1969; the sums of several
    // levels in one go, and the sums of outputs where the products arise: Huang et al. 2016.
    void strassen(int64_t n, int64_t first, int64_t last, float* scratch) const {
        // quarter q of an operand: row half q / 2, column half q % 2. Pairs (quarter, sign); a second 0 sign is none.
        static const struct { int x[2], xs[2], out[2], os[2]; } PRODUCTS[7] = {
            {{0, 3}, {1, 1}, {0, 3}, {1, 1}},  {{2, 3}, {1, 1}, {2, 3}, {1, -1}}, {{0, 0}, {1, 0}, {1, 3}, {1, 1}},
            {{3, 0}, {1, 0}, {0, 2}, {1, 1}},  {{0, 1}, {1, 1}, {0, 1}, {-1, 1}}, {{2, 0}, {1, -1}, {3, 0}, {1, 0}},
            {{1, 3}, {1, -1}, {0, 0}, {1, 0}},
        };
        const int64_t L = k.lanes, halves = (int64_t)1 << c.levels, count = last - first;
        const int64_t segment = pixels() / halves, in_blocks = blocks() / halves, parts = out_blocks() / halves;
        const int64_t in_plane = c.height * c.width * L, sums_plane = halves * count * L;
        float *sums = scratch, *mixed = sums + out_blocks() * sums_plane;
        std::memset(sums, 0, out_blocks() * sums_plane * sizeof(float));
        int64_t products = 1;
        for (int64_t level = 0; level < c.levels; ++level) products *= 7;
        const int64_t panels_of = divide_up(parts, CONV_VECTORS);
        const ptrdiff_t here = 0;
        for (int64_t product = 0; product < products; ++product) {
            struct Term { int64_t row, column; float sign; };
            std::vector<Term> in{{0, 0, 1}}, out{{0, 0, 1}};
            for (int64_t level = 0, rest = product, scale = products / 7; level < c.levels; ++level, scale /= 7) {
                const auto& p = PRODUCTS[rest / scale];
                rest %= scale;
                std::vector<Term> more, further;
                for (int i = 0; i < 2; ++i) {
                    for (const Term& t : in)
                        if (p.xs[i]) more.push_back({t.row * 2 + p.x[i] / 2, t.column * 2 + p.x[i] % 2, t.sign * p.xs[i]});
                    for (const Term& t : out)
                        if (p.os[i])
                            further.push_back({t.row * 2 + p.out[i] / 2, t.column * 2 + p.out[i] % 2, t.sign * p.os[i]});
                }
                in = more;
                out = further;
            }
            TileInput tile{mixed, count * L, in_blocks * L, L, &here, 1, nullptr};
            auto pixels_of = [&](const Term& t) {
                return image(n) + t.column * in_blocks * in_plane + (t.row * segment + first) * L;
            };
            if (in.size() == 1 && in[0].sign == 1) {
                tile.x = pixels_of(in[0]);
                tile.plane = in_plane;
            } else {
                for (int64_t block = 0; block < in_blocks; ++block) {
                    float* to = mixed + block * count * L;
                    for (size_t i = 0; i < in.size(); ++i) {  // the first term of each product has the sign 1
                        const float* from = pixels_of(in[i]) + block * in_plane;
                        if (i == 1) k.combine(pixels_of(in[0]) + block * in_plane, from, in[1].sign, count, to);
                        if (i > 1) k.combine(to, from, in[i].sign, count, to);
                    }
                }
            }
            for (int64_t panel = 0; panel < panels_of; ++panel) {
                const int64_t wide = std::min<int64_t>(CONV_VECTORS, parts - panel * CONV_VECTORS);
                tile.weights = weights + (product * parts + panel * CONV_VECTORS) * L * in_blocks * L;
                std::vector<TileTarget> targets;
                for (const Term& t : out)
                    targets.push_back({sums + (t.column * parts + panel * CONV_VECTORS) * sums_plane + t.row * count * L,
                                       t.sign});
                const TileOutput to{nullptr, sums_plane, nullptr, nullptr, 0, 0, targets.data(), (ptrdiff_t)targets.size()};
                k.multiply(&tile, count, wide, &to);
            }
        }
        for (int64_t block = 0; block < out_blocks(); ++block)
            for (int64_t half = 0; half < halves; ++half) {
                const TileOutput out = output(n, block, half * segment + first);
                k.finish(sums + block * sums_plane + half * count * L, count, &out);
            }
        if (last < segment) return;
        for (int64_t panel = 0; panel < panels() && halves * segment < pixels(); ++panel) {  // what does not divide
            const TileInput rest{image(n) + halves * segment * L, in_plane, c.channels, L, &here, 1,
                                 panel_weights(panel, 1) + products * parts * L * in_blocks * L};
            const TileOutput out = output(n, panel * CONV_VECTORS, halves * segment);
            k.multiply(&rest, pixels() - halves * segment, vectors(panel), &out);
        }
    }

    void depthwise(int64_t n, int64_t block, int64_t first, int64_t last) const {
        const Window w{c.height, c.width, c.out_height, c.out_width, c.kernel_y, c.kernel_x, c.stride_y,
                       c.stride_x, c.top, c.left, c.dilation_y, c.dilation_x};
        const TileOutput out = output(n, block, 0);
        k.depthwise(&w, image(n) + block * c.height * c.width * k.lanes,
                    weights + block * c.kernel_y * c.kernel_x * k.lanes, &out, first, last);
    }

    int64_t units() const {
        switch (c.scheme) {
            case DIRECT: case DEPTHWISE: return c.out_height;
            case IM2COL: return pixels();
            case WINOGRAD: return divide_up(c.out_height, c.tile_y) * divide_up(c.out_width, c.tile_x);
            default: return pixels() >> c.levels;
        }
    }
};

}  // namespace

void Network::convolution(const Convolution& c, const float* weights, const float* bias, float low, float high) {
    steps_.push_back([=](float* arena) {
        const Run run{c, *table_, weights, bias, low, high, arena};
        const int64_t units = run.units(), chunks = divide_up(units, c.chunk), threads = pool_.threads();
        const bool divisible = c.scheme == DIRECT || c.scheme == IM2COL || c.scheme == WINOGRAD;
        // where chunks are too few for all threads, outputs are divided too
        const int64_t tasks = c.batch * chunks;
        int64_t groups = c.scheme == DEPTHWISE ? run.out_blocks() : 1;
        if (divisible && tasks < 4 * threads && threads > 1 && tasks % threads)
            groups = std::min(run.panels(), divide_up(2 * threads, tasks));
        pool_.run(tasks * groups, [&](ptrdiff_t task, int thread) {
            const int64_t group = task % groups, chunk = task / groups % chunks, n = task / groups / chunks;
            const int64_t first = chunk * c.chunk, last = std::min(units, first + c.chunk);
            const int64_t from = run.panels() * group / groups, to = run.panels() * (group + 1) / groups;
            float* scratch = arena + c.scratch + thread * c.scratch_size;
            switch (c.scheme) {
                case DIRECT: return run.direct(n, first, last, from, to, scratch);
                case IM2COL: return run.im2col(n, first, last, from, to, scratch);
                case WINOGRAD: return run.winograd(n, first, last, from, to, scratch);
                case STRASSEN: return run.strassen(n, first, last, scratch);
                default: return run.depthwise(n, group, first, last);
            }
        });
    });
}

// work(image, first part, last part) on all threads.
template <class Work>
void Network::by_image(int64_t images, int64_t parts, Work work) {
    const int64_t slices = pool_.threads() == 1 ? 1 : std::min<int64_t>(parts, 2 * pool_.threads());
    pool_.run(images * slices, [&](ptrdiff_t task, int) {
        const int64_t slice = task % slices;
        work(task / slices, parts * slice / slices, parts * (slice + 1) / slices);
    });
}

void Network::pool(const Window& w, int64_t planes, int64_t input, int64_t output, bool average, bool count_padding) {
    steps_.push_back([=](float* arena) {
        by_image(1, planes, [&](int64_t, int64_t first, int64_t last) {
            for (int64_t plane = first; plane < last; ++plane)
                table_->pool(&w, arena + input + plane * w.height * w.width * table_->lanes,
                             arena + output + plane * w.out_height * w.out_width * table_->lanes, 0, w.out_height,
                             average, count_padding);
        });
    });
}

void Network::add(int64_t a, int64_t b, int64_t output, int64_t floats, float low, float high) {
    steps_.push_back([=](float* arena) {
        const int64_t L = table_->lanes;
        by_image(1, floats / L, [&](int64_t, int64_t first, int64_t last) {
            const TileOutput out{arena + output + first * L, 0, nullptr, b < 0 ? nullptr : arena + b + first * L, low,
                                 high, nullptr, 0};
            table_->finish(arena + a + first * L, last - first, &out);
        });
    });
}

void Network::copy(int64_t input, int64_t output, int64_t images, int64_t floats, int64_t in_stride, int64_t out_stride) {
    steps_.push_back([=](float* arena) {
        for (int64_t n = 0; n < images; ++n)
            std::memcpy(arena + output + n * out_stride, arena + input + n * in_stride, floats * sizeof(float));
    });
}

void Network::layout(int64_t input, int64_t output, int64_t images, int64_t channels, int64_t pixels, bool to_blocks) {
    steps_.push_back([=](float* arena) {
        const int64_t L = table_->lanes, blocks = divide_up(channels, L);
        by_image(images, blocks, [&](int64_t n, int64_t first, int64_t last) {
            for (int64_t block = first; block < last; ++block) {
                float* planar = arena + (to_blocks ? input : output) + (n * channels + block * L) * pixels;
                float* blocked = arena + (to_blocks ? output : input) + (n * blocks + block) * pixels * L;
                const int64_t planes = std::min(L, channels - block * L);
                if (to_blocks)
                    table_->block(planar, planes, pixels, blocked);
                else
                    table_->unblock(blocked, planes, pixels, planar);
            }
        });
    });
}

void Network::run(float* arena, size_t first, size_t last) {
    Pool::Turn turn(pool_);
    for (size_t step = first; step < last; ++step) steps_[step](arena);
}

}  // namespace ops

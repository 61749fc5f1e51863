// The kernels of conv.h, on vectors of VL floats. Included by table.inl, after vector.inl.
#if VL == 16
#define CONV_ROWS 14  // with 2 vectors of outputs: 28 of 32 registers are sums
#elif defined(__aarch64__)
#define CONV_ROWS 12
#else
#define CONV_ROWS 6
#endif

enum { WEIGHTS_AHEAD = 1024 };  // floats of weights that are fetched early: large ones come from beyond the second-level cache

// NaN stays NaN: it is the second operand, which these return where neither is greater.
INLINE vf clip(vf v, const TileOutput& o) { return maximum(splat(o.low), minimum(splat(o.high), v)); }

template <int R, int V>
INLINE void put(const TileOutput& o, ptrdiff_t at, vf (&acc)[R][V]) {
    for (ptrdiff_t t = 0; t < o.target_count; ++t)
        for (int v = 0; v < V; ++v) {
            float* out = o.targets[t].out + at + v * o.plane;
            const vf sign = splat(o.targets[t].sign);
            for (int r = 0; r < R; ++r) store(out + r * VL, fma(acc[r][v], sign, load(out + r * VL)));
        }
    if (o.target_count) return;
    for (int v = 0; v < V; ++v) {
        const vf bias = o.bias ? load(o.bias + v * VL) : vf{};
        float* out = o.out + at + v * o.plane;
        const float* residual = o.residual ? o.residual + at + v * o.plane : nullptr;
        for (int r = 0; r < R; ++r) {
            vf y = acc[r][v] + bias;
            if (residual) y += load(residual + r * VL);
            store(out + r * VL, clip(y, o));
        }
    }
}

template <int R, int V, int BLOCK>
INLINE void multiply_add(const float* x, const float* w, vf (&acc)[R][V]) {
    for (int v = 0; v < V; v += 16 / VL) __builtin_prefetch(w + WEIGHTS_AHEAD + v * VL);
    vf b[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) b[v] = load(w + v * VL);
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) {
        const vf a = splat(x[r * BLOCK]);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) acc[r][v] = fma(a, b[v], acc[r][v]);
    }
}

template <int R, int V, int BLOCK>
static void tile(const TileInput& in, ptrdiff_t at, const TileOutput& o) {
    vf acc[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) acc[r][v] = vf{};
    const float *w = in.weights, *plane = in.x + at * BLOCK;
    for (ptrdiff_t c = 0; c < in.channels; c += BLOCK, plane += in.plane) {
        const ptrdiff_t width = in.channels - c < BLOCK ? in.channels - c : BLOCK;
        for (ptrdiff_t t = 0; t < in.tap_count; ++t) {
            const float* x = plane + in.taps[t];
            for (ptrdiff_t k = 0; k < width; ++k, w += V * VL) multiply_add<R, V, BLOCK>(x + k, w, acc);
        }
    }
    put<R, V>(o, at * VL, acc);
}

typedef void (*Tile)(const TileInput&, ptrdiff_t, const TileOutput&);

template <int V, int BLOCK>
static void tiles(const TileInput& in, ptrdiff_t pixels, const TileOutput& o) {
#define TILE(R) tile<R <= CONV_ROWS ? R : 1, V, BLOCK>
    static const Tile of_rows[] = {nullptr, TILE(1), TILE(2), TILE(3),  TILE(4),  TILE(5),  TILE(6), TILE(7),
                                   TILE(8), TILE(9), TILE(10), TILE(11), TILE(12), TILE(13), TILE(14)};
#undef TILE
    ptrdiff_t left = (pixels + CONV_ROWS - 1) / CONV_ROWS;
    for (ptrdiff_t at = 0; left > 0; --left) {  // as even as can be: a tile of one row wastes most of the registers
        const ptrdiff_t rows = (pixels - at + left - 1) / left;
        of_rows[rows](in, at, o);
        at += rows;
    }
}

static void multiply_pixels(const TileInput* in, ptrdiff_t pixels, ptrdiff_t vectors, const TileOutput* o) {
    if (in->block == 1)
        return vectors == 1 ? tiles<1, 1>(*in, pixels, *o) : tiles<CONV_VECTORS, 1>(*in, pixels, *o);
    return vectors == 1 ? tiles<1, VL>(*in, pixels, *o) : tiles<CONV_VECTORS, VL>(*in, pixels, *o);
}

// R neighbouring outputs of a row whose taps in x all exist; taps in y from `from` to `to`. 0 for K or S: not known here.
template <int R, int K, int S>
INLINE void depthwise_tile(const Window& w, const float* in, const float* weights, ptrdiff_t from, ptrdiff_t to,
                           const TileOutput& o, ptrdiff_t at) {
    const ptrdiff_t kernel = K ? K : w.kernel_x, stride = S ? S : w.stride_x, apart = K ? 1 : w.dilation_x;
    vf acc[R][1];
    for (int r = 0; r < R; ++r) acc[r][0] = vf{};
    for (ptrdiff_t y = from; y < to; ++y) {
        const float* row = in + y * w.dilation_y * w.width * VL;
#pragma GCC unroll 7
        for (ptrdiff_t x = 0; x < kernel; ++x) {
            const vf factor = load(weights + (y * kernel + x) * VL);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r)
                acc[r][0] = fma(load(row + (r * stride + x * apart) * VL), factor, acc[r][0]);
        }
    }
    put<R, 1>(o, at, acc);
}

// Of taps i * dilation + start in [0, size): the first, and the one after the last.
INLINE void inside(ptrdiff_t start, ptrdiff_t dilation, ptrdiff_t taps, ptrdiff_t size, ptrdiff_t& from, ptrdiff_t& to) {
    from = 0;
    to = taps;
    while (from < to && start + from * dilation < 0) ++from;
    while (to > from && start + (to - 1) * dilation >= size) --to;
}

template <int K, int S>
static void depthwise_rows(const Window& w, const float* in, const float* weights, const TileOutput& o,
                           ptrdiff_t first, ptrdiff_t last) {
    enum { R = 7 };
    const ptrdiff_t reach = (w.kernel_x - 1) * w.dilation_x;
    ptrdiff_t begin = (w.left + w.stride_x - 1) / w.stride_x, end = w.width + w.left - reach;
    end = end > 0 ? (end + w.stride_x - 1) / w.stride_x : 0;
    if (end > w.out_width) end = w.out_width;
    if (begin > end) begin = end = w.out_width;
    for (ptrdiff_t y = first; y < last; ++y) {
        const ptrdiff_t top = y * w.stride_y - w.top;
        ptrdiff_t from, to;
        inside(top, w.dilation_y, w.kernel_y, w.height, from, to);
        const float* row = in + top * w.width * VL;
        for (ptrdiff_t x = 0; x < w.out_width;) {
            const ptrdiff_t left = x * w.stride_x - w.left, at = (y * w.out_width + x) * VL;
            if (x >= begin && x + R <= end) {
                depthwise_tile<R, K, S>(w, row + left * VL, weights, from, to, o, at);
                x += R;
            } else if (x >= begin && x < end) {
                depthwise_tile<1, K, S>(w, row + left * VL, weights, from, to, o, at);
                ++x;
            } else {
                ptrdiff_t near, far;
                inside(left, w.dilation_x, w.kernel_x, w.width, near, far);
                vf acc[1][1] = {{vf{}}};
                for (ptrdiff_t i = from; i < to; ++i)
                    for (ptrdiff_t j = near; j < far; ++j)
                        acc[0][0] = fma(load(row + (i * w.dilation_y * w.width + left + j * w.dilation_x) * VL),
                                        load(weights + (i * w.kernel_x + j) * VL), acc[0][0]);
                put<1, 1>(o, at, acc);
                ++x;
            }
        }
    }
}

static void depthwise(const Window* w, const float* in, const float* weights, const TileOutput* o, ptrdiff_t first,
                      ptrdiff_t last) {
    const ptrdiff_t kernel = w->dilation_x == 1 ? w->kernel_x : 0, stride = w->stride_x;
    if (kernel == 3 && stride == 1) return depthwise_rows<3, 1>(*w, in, weights, *o, first, last);
    if (kernel == 3 && stride == 2) return depthwise_rows<3, 2>(*w, in, weights, *o, first, last);
    if (kernel == 5 && stride == 1) return depthwise_rows<5, 1>(*w, in, weights, *o, first, last);
    if (kernel == 5 && stride == 2) return depthwise_rows<5, 2>(*w, in, weights, *o, first, last);
    depthwise_rows<0, 0>(*w, in, weights, *o, first, last);
}

static void pool(const Window* window, const float* in, float* out, ptrdiff_t first, ptrdiff_t last, bool average,
                 bool count_padding) {
    const Window& w = *window;
    for (ptrdiff_t y = first; y < last; ++y)
        for (ptrdiff_t x = 0; x < w.out_width; ++x) {
            const ptrdiff_t top = y * w.stride_y - w.top, left = x * w.stride_x - w.left;
            ptrdiff_t from, to, near, far;
            inside(top, w.dilation_y, w.kernel_y, w.height, from, to);
            inside(left, w.dilation_x, w.kernel_x, w.width, near, far);
            vf sum = average ? vf{} : splat(-__builtin_inff());
            for (ptrdiff_t i = from; i < to; ++i) {
                const float* row = in + ((top + i * w.dilation_y) * w.width + left) * VL;
                for (ptrdiff_t j = near; j < far; ++j) {
                    const vf value = load(row + j * w.dilation_x * VL);
                    sum = average ? sum + value : maximum(sum, value);
                }
            }
            const ptrdiff_t count = count_padding ? w.kernel_y * w.kernel_x : (to - from) * (far - near);
            store(out + (y * w.out_width + x) * VL, average ? sum / splat((float)count) : sum);
        }
}

// Finite points of a transform: 0, 1/2, -1/2, 1, -1, ...
constexpr double point(int i) { return (i + 1) / 2 * (i % 2 ? 0.5 : -0.5); }

// Row j of the input transform: the coefficients of the product of all x - p but the j-th, all of them where j is the
// point at infinity. They are exact in binary.
template <int POINTS>
struct InputMatrix {
    double at[POINTS][POINTS];
    constexpr InputMatrix() : at() {
        for (int j = 0; j < POINTS; ++j) {
            at[j][0] = 1;
            int degree = 0;
            for (int i = 0; i < POINTS - 1; ++i) {
                if (i == j) continue;
                ++degree;
                for (int c = degree; c >= 0; --c) at[j][c] = (c ? at[j][c - 1] : 0) - point(i) * at[j][c];
            }
        }
    }
};

template <int POINTS>
struct OutputMatrix {
    double at[POINTS][POINTS];  // powers of the points; the point at infinity counts in the last output alone
    constexpr OutputMatrix() : at() {
        for (int i = 0; i < POINTS; ++i)
            for (int j = 0; j < POINTS - 1; ++j) at[i][j] = i ? at[i - 1][j] * point(j) : 1;
    }
};

template <class Matrix, int J, int K>
INLINE void add_term(vf& sum, const vf* d, bool& begun) {
    constexpr Matrix matrix;
    constexpr float factor = (float)matrix.at[J][K];
    if constexpr (factor != 0) {
        if (!begun)
            sum = factor == 1 ? d[K] : d[K] * splat(factor);
        else
            sum = factor == 1 ? sum + d[K] : factor == -1 ? sum - d[K] : fma(d[K], splat(factor), sum);
        begun = true;
    }
}

// Row J of a transform; what is zero is left out, which the compiler knows.
template <class Matrix, int J, int POINTS, int K = 0>
INLINE void add_terms(vf& sum, const vf* d, bool begun) {
    if constexpr (K < POINTS) {
        add_term<Matrix, J, K>(sum, d, begun);
        add_terms<Matrix, J, POINTS, K + 1>(sum, d, begun);
    }
}

template <int POINTS, int J = 0>
INLINE void input_rows(const vf* d, float* out, ptrdiff_t step) {
    if constexpr (J < POINTS) {
        vf sum = vf{};
        add_terms<InputMatrix<POINTS>, J, POINTS>(sum, d, false);
        store(out + J * step, sum);
        input_rows<POINTS, J + 1>(d, out, step);
    }
}

template <int POINTS, int I = 0>
INLINE void output_rows(const vf* d, ptrdiff_t outputs, float* out, ptrdiff_t step) {
    if constexpr (I < POINTS - 1) {
        if (I >= outputs) return;
        vf sum = vf{};
        add_terms<OutputMatrix<POINTS>, I, POINTS>(sum, d, false);
        store(out + I * step, I == outputs - 1 ? sum + d[POINTS - 1] : sum);
        output_rows<POINTS, I + 1>(d, outputs, out, step);
    }
}

template <int POINTS>
static void transform_lines(const Lines& l, ptrdiff_t outputs) {
    for (ptrdiff_t line = 0; line < l.count; ++line) {
        const float* in = l.in + line * l.in_line;
        float* out = l.out + line * l.out_line;
        vf d[POINTS];
        for (int k = 0; k < POINTS; ++k) d[k] = load(in + k * l.in_step);
        if (outputs)
            output_rows<POINTS>(d, outputs, out, l.out_step);
        else
            input_rows<POINTS>(d, out, l.out_step);
    }
}

static void transform_output(ptrdiff_t points, ptrdiff_t outputs, const Lines* lines) {
    switch (points) {
        case 2: return transform_lines<2>(*lines, outputs);
        case 3: return transform_lines<3>(*lines, outputs);
        case 4: return transform_lines<4>(*lines, outputs);
        case 5: return transform_lines<5>(*lines, outputs);
        case 6: return transform_lines<6>(*lines, outputs);
        case 7: return transform_lines<7>(*lines, outputs);
        case 8: return transform_lines<8>(*lines, outputs);
        case 9: return transform_lines<9>(*lines, outputs);
        default: return transform_lines<10>(*lines, outputs);
    }
}

static void transform_input(ptrdiff_t points, const Lines* lines) { transform_output(points, 0, lines); }

static void finish_vectors(const float* a, ptrdiff_t vectors, const TileOutput* o) {
    const vf bias = o->bias ? load(o->bias) : vf{};
    for (ptrdiff_t i = 0; i < vectors; ++i) {
        vf y = load(a + i * VL) + bias;
        if (o->residual) y += load(o->residual + i * VL);
        store(o->out + i * VL, clip(y, *o));
    }
}

static void combine(const float* a, const float* b, float sign, ptrdiff_t vectors, float* out) {
    for (ptrdiff_t i = 0; i < vectors; ++i)
        store(out + i * VL, fma(load(b + i * VL), splat(sign), load(a + i * VL)));
}

static void block(const float* in, ptrdiff_t planes, ptrdiff_t pixels, float* out) {
    transpose_block(in, pixels, planes, pixels, out, VL);
}

static void unblock(const float* in, ptrdiff_t planes, ptrdiff_t pixels, float* out) {
    for (ptrdiff_t p = 0; p < pixels; p += VL) {
        vf m[VL];
        for (int i = 0; i < VL; ++i) m[i] = p + i < pixels ? load(in + (p + i) * VL) : vf{};
        transpose(m);
        for (ptrdiff_t c = 0; c < planes && c < VL; ++c) store_up_to(out + c * pixels + p, m[c], pixels - p);
    }
}

static const ConvTable conv_table = {VL,   CONV_ROWS,       multiply_pixels,  depthwise,      pool,    transform_input,
                                     transform_output, finish_vectors, combine, block, unblock};

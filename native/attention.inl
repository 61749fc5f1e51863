// Self-attention of one head, by blocks of queries.
//
// Included after vector.inl by each instruction set's file, which has defined FLOAT_ROWS and FLOAT_VECTORS, the
// register tile of float products.

INLINE ptrdiff_t padded(ptrdiff_t count) { return (count + VL - 1) / VL * VL; }

// Floats in a row of at least `count` that is an odd number of cache lines long, so that a column of many rows
// does not fall into a few sets of the cache.
INLINE ptrdiff_t odd_lines(ptrdiff_t count) { return ((count + 15) / 16 | 1) * 16; }

static ptrdiff_t attention_scratch(ptrdiff_t length, ptrdiff_t head_size) {
    ptrdiff_t keys = (head_size + 1) * odd_lines(length), values = (length + 1) * padded(head_size);
    ptrdiff_t rounded = (length + FLOAT_ROWS) * padded(head_size);  // of the half precision form
    return (ptrdiff_t)sizeof(float) * (keys + values + rounded + 2 * FLOAT_ROWS * odd_lines(length));
}

// R rows of scores, padded to whole vectors, become e**(scale * (score - largest of the row)); factors: one over
// the sum of each. Rows together, because each alone waits for its maximum and its sum.
template <int R>
INLINE void softmax(float* scores, ptrdiff_t width, ptrdiff_t length, float scale, float (&factors)[R]) {
    vf top[R], sum[R], offset[R];
    for (int r = 0; r < R; ++r) {
        top[r] = splat(-__builtin_inff());
        sum[r] = vf{};
    }
    each_vector(length, [&](ptrdiff_t k, ptrdiff_t lanes) ALWAYS_INLINE {
        for (int r = 0; r < R; ++r)
            top[r] = maximum(top[r], keep(load(scores + r * width + k), lanes, -__builtin_inff()));
    });
    const float factor = scale * 1.44269504f;
    for (int r = 0; r < R; ++r) offset[r] = splat(-max_lanes(top[r]) * factor);
    each_vector(length, [&](ptrdiff_t k, ptrdiff_t lanes) ALWAYS_INLINE {
        for (int r = 0; r < R; ++r) {
            float* at = scores + r * width + k;
            vf e = keep(exp2_(fma(load(at), splat(factor), offset[r])), lanes, 0.0f);
            sum[r] += e;
            store(at, e);
        }
    });
    for (int r = 0; r < R; ++r) factors[r] = 1.0f / sum_lanes(sum[r]);
}

template <class Op, int R, int V>
INLINE void product_columns(const float* x, ptrdiff_t stride, const float* w, ptrdiff_t w_stride, ptrdiff_t count,
                            const float* factors, float* out, ptrdiff_t out_stride, ptrdiff_t columns) {
    vf acc[R][V];
    multiply<Op, R, V>(x, stride, w, w_stride, count, acc);
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v)
            if (v * VL < columns) {
                vf y = factors ? acc[r][v] * splat(factors[r]) : acc[r][v];
                store_up_to(out + r * out_stride + v * VL, y, columns - v * VL);
            }
}

// out[r] = factors[r] * sum over k of x[r][k] * w[k], `columns` wide; w is padded to whole vectors.
template <class Op, int R>
INLINE void product(const float* x, ptrdiff_t stride, const float* w, ptrdiff_t w_stride, ptrdiff_t count,
                    const float* factors, float* out, ptrdiff_t out_stride, ptrdiff_t columns) {
    ptrdiff_t c = 0;
    for (; c + (FLOAT_VECTORS - 1) * VL < columns; c += FLOAT_VECTORS * VL)
        product_columns<Op, R, FLOAT_VECTORS>(x, stride, w + c, w_stride, count, factors, out + c, out_stride,
                                              columns - c);
    for (; c + VL < columns; c += 2 * VL)
        product_columns<Op, R, 2>(x, stride, w + c, w_stride, count, factors, out + c, out_stride, columns - c);
    for (; c < columns; c += VL)
        product_columns<Op, R, 1>(x, stride, w + c, w_stride, count, factors, out + c, out_stride, columns - c);
}

// work(first row, how many rows as a constant)
template <int N>
struct Rows {};

template <class Work>
INLINE void each_block(ptrdiff_t rows, Work work) {
    ptrdiff_t r = 0;
    for (; r + FLOAT_ROWS <= rows; r += FLOAT_ROWS) work(r, Rows<FLOAT_ROWS>());
    for (; r < rows; ++r) work(r, Rows<1>());
}

struct HeadInFloat {
    const AttentionBlock* b;
    ptrdiff_t width, value_stride;
    const float *keys, *values;
    float* scores;

    template <int R>
    void operator()(ptrdiff_t row, Rows<R>) const {
        product<MultiplyAdd, R>(b->queries + row * b->stride, b->stride, keys, width, b->head_size, nullptr, scores,
                                width, padded(b->length));
        float factors[R];
        softmax<R>(scores, width, b->length, b->scale, factors);
        product<MultiplyAdd, R>(scores, width, values, value_stride, b->length, factors,
                                b->out + row * b->out_stride, b->out_stride, b->head_size);
    }
};

static void attention(const AttentionBlock* b, void* scratch) {
    const ptrdiff_t width = odd_lines(b->length), value_stride = padded(b->head_size);
    float* keys = (float*)scratch;
    float* scores = keys + b->head_size * width;
    float* values = scores + FLOAT_ROWS * width;
    transpose_block(b->keys, b->stride, b->length, b->head_size, keys, width);
    for (ptrdiff_t k = 0; k < b->length; ++k)
        each_vector(b->head_size, [&](ptrdiff_t c, ptrdiff_t lanes) ALWAYS_INLINE {
            store(values + k * value_stride + c, load_up_to(b->values + k * b->stride + c, lanes));
        });
    each_block(b->rows, HeadInFloat{b, width, value_stride, keys, values, scores});
}

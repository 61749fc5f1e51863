// Work on rows of activations: quantisation, layer normalisation, attention.
//
// Included after linear.inl by each instruction set's file.

static void quantize_rows(const float* x, ptrdiff_t stride, const float* inverse, ptrdiff_t rows,
                          ptrdiff_t columns, uint8_t* out, ptrdiff_t out_stride) {
    ptrdiff_t padded = (columns + 63) / 64 * 64;
    for (ptrdiff_t r = 0; r < rows; ++r, x += stride, out += out_stride) {
        // The largest magnitude by integer comparison, which lets NaN and infinity win.
        vi largest = vi{};
        for (ptrdiff_t k = 0; k < columns; k += VL) {
            vf v = load_up_to(x + k, columns - k);
            if (inverse) v *= load_up_to(inverse + k, columns - k);
            vi bits = (vi)v & splat(0x7fffffff);
            largest = bits > largest ? bits : largest;
        }
        int32_t top = 0;
        for (int i = 0; i < VL; ++i) top = largest[i] > top ? largest[i] : top;
        float t;
        __builtin_memcpy(&t, &top, 4);
        t /= 127.0f;
        bool finite = top < 0x7f800000;
        if (finite && t < 1.17549435e-38f) t = 0;  // 1 / t would overflow
        if (!finite) t = __builtin_nanf("");
        vf factor = splat(t > 0 ? 1.0f / t : 0.0f);
        vi sum = vi{};
        for (ptrdiff_t k = 0; k < padded; k += VL) {
            vi q = vi{};
            if (k < columns && t > 0) {
                vf v = load_up_to(x + k, columns - k);
                if (inverse) v *= load_up_to(inverse + k, columns - k);
                q = nearest(minimum(maximum(v * factor, splat(-127.0f)), splat(127.0f)));
            }
            sum += q;
            vn narrow = __builtin_convertvector(q, vn);
            __builtin_memcpy(out + k, &narrow, VL);
        }
        int32_t total = 0;
        for (int i = 0; i < VL; ++i) total += sum[i];
        __builtin_memset(out + padded, 0, ROW_TAIL);
        __builtin_memcpy(out + padded + ROW_SCALE, &t, 4);
        __builtin_memcpy(out + padded + ROW_SUM, &total, 4);
    }
}

static void layer_norm(const float* x, const float* residual, const float* gamma, const float* beta,
                       float epsilon, ptrdiff_t rows, ptrdiff_t columns, float* out) {
    for (ptrdiff_t r = 0; r < rows; ++r, x += columns, out += columns) {
        vf sum = vf{};
        for (ptrdiff_t k = 0; k < columns; k += VL) {
            vf v = load_up_to(x + k, columns - k);
            if (residual) v += load_up_to(residual + k, columns - k);
            sum += v;
            store_up_to(out + k, v, columns - k);
        }
        float mean = sum_lanes(sum) / (float)columns;
        vf squares = vf{};
        for (ptrdiff_t k = 0; k < columns; k += VL) {
            vf d = keep(load_up_to(out + k, columns - k) - splat(mean), columns - k, 0.0f);
            squares = fma(d, d, squares);
        }
        float scale = 1.0f / __builtin_sqrtf(sum_lanes(squares) / (float)columns + epsilon);
        for (ptrdiff_t k = 0; k < columns; k += VL) {
            vf d = (load_up_to(out + k, columns - k) - splat(mean)) * splat(scale);
            vf y = fma(d, load_up_to(gamma + k, columns - k), load_up_to(beta + k, columns - k));
            store_up_to(out + k, y, columns - k);
        }
        if (residual) residual += columns;
    }
}

INLINE ptrdiff_t padded(ptrdiff_t count) { return (count + VL - 1) / VL * VL; }

static ptrdiff_t attention_scratch(ptrdiff_t length, ptrdiff_t head_size) {
    return (ptrdiff_t)sizeof(float) *
           (head_size * padded(length) + length * padded(head_size) + FLOAT_ROWS * padded(length));
}

// probabilities: one row of scores in place; returns one over their sum.
INLINE float softmax(float* scores, ptrdiff_t length, float scale) {
    vf top = splat(-__builtin_inff());
    for (ptrdiff_t k = 0; k < length; k += VL)
        top = maximum(top, keep(load(scores + k), length - k, -__builtin_inff()));
    float factor = scale * 1.44269504f;
    vf offset = splat(-max_lanes(top) * factor), sum = vf{};
    for (ptrdiff_t k = 0; k < length; k += VL) {
        vf e = keep(exp2_(fma(load(scores + k), splat(factor), offset)), length - k, 0.0f);
        sum += e;
        store(scores + k, e);
    }
    return 1.0f / sum_lanes(sum);
}

template <int R, int V>
INLINE void attention_columns(const float* x, ptrdiff_t stride, const float* w, ptrdiff_t w_stride,
                              ptrdiff_t count, const float* factors, float* out, ptrdiff_t out_stride,
                              ptrdiff_t columns) {
    vf acc[R][V];
    multiply<R, V>(x, stride, w, w_stride, count, acc);
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v)
            if (v * VL < columns) {
                vf y = factors ? acc[r][v] * splat(factors[r]) : acc[r][v];
                store_up_to(out + r * out_stride + v * VL, y, columns - v * VL);
            }
}

// out[r] = factors[r] * sum over k of x[r][k] * w[k], `columns` wide; w is padded to whole vectors.
template <int R>
INLINE void attention_product(const float* x, ptrdiff_t stride, const float* w, ptrdiff_t w_stride,
                              ptrdiff_t count, const float* factors, float* out, ptrdiff_t out_stride,
                              ptrdiff_t columns) {
    ptrdiff_t c = 0;
    for (; c + (FLOAT_VECTORS - 1) * VL < columns; c += FLOAT_VECTORS * VL)
        attention_columns<R, FLOAT_VECTORS>(x, stride, w + c, w_stride, count, factors, out + c, out_stride,
                                            columns - c);
    for (; c + VL < columns; c += 2 * VL)
        attention_columns<R, 2>(x, stride, w + c, w_stride, count, factors, out + c, out_stride, columns - c);
    for (; c < columns; c += VL)
        attention_columns<R, 1>(x, stride, w + c, w_stride, count, factors, out + c, out_stride, columns - c);
}

template <int R>
static void attention_rows(const AttentionBlock* b, ptrdiff_t row, const float* keys, const float* values,
                           ptrdiff_t value_stride, float* scores) {
    ptrdiff_t width = padded(b->length);
    attention_product<R>(b->queries + row * b->stride, b->stride, keys, width, b->head_size, nullptr, scores,
                         width, width);
    float factors[R];
    for (int r = 0; r < R; ++r) factors[r] = softmax(scores + r * width, b->length, b->scale);
    attention_product<R>(scores, width, values, value_stride, b->length, factors, b->out + row * b->out_stride,
                         b->out_stride, b->head_size);
}

static void attention(const AttentionBlock* b, void* scratch) {
    ptrdiff_t width = padded(b->length), value_stride = b->stride;
    float* keys = (float*)scratch;
    float* scores = keys + b->head_size * width;
    transpose_block(b->keys, b->stride, b->length, b->head_size, keys, width);
    const float* values = b->values;
    if (b->head_size % VL) {  // whole vectors of a value row would reach into the next head
        float* copy = scores + FLOAT_ROWS * width;
        value_stride = padded(b->head_size);
        for (ptrdiff_t k = 0; k < b->length; ++k)
            for (ptrdiff_t c = 0; c < value_stride; c += VL)
                store(copy + k * value_stride + c,
                      load_up_to(b->values + k * b->stride + c, b->head_size - c > 0 ? b->head_size - c : 0));
        values = copy;
    }
    ptrdiff_t r = 0;
    for (; r + FLOAT_ROWS <= b->rows; r += FLOAT_ROWS)
        attention_rows<FLOAT_ROWS>(b, r, keys, values, value_stride, scores);
    for (; r < b->rows; ++r) attention_rows<1>(b, r, keys, values, value_stride, scores);
}

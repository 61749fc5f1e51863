// Work on rows of activations: quantisation and layer normalisation.
//
// Included after linear.inl by each instruction set's file.

static void quantize_row(const float* x, const float* inverse, ptrdiff_t columns, uint8_t* out) {
    auto scaled = [=](ptrdiff_t k, ptrdiff_t lanes) ALWAYS_INLINE {
        vf v = load_up_to(x + k, lanes);
        return inverse ? v * load_up_to(inverse + k, lanes) : v;
    };
    // The largest magnitude by integer comparison, which lets NaN and infinity win.
    vi largest = vi{};
    each_vector(columns, [&](ptrdiff_t k, ptrdiff_t lanes) ALWAYS_INLINE {
        largest = maximum(largest, (vi)scaled(k, lanes) & splat(0x7fffffff));
    });
    int32_t top = 0;
    for (int i = 0; i < VL; ++i) top = largest[i] > top ? largest[i] : top;
    float t;
    __builtin_memcpy(&t, &top, 4);
    t /= 127.0f;
    const bool finite = top < 0x7f800000, usable = finite && t >= 1.17549435e-38f;  // else 1 / t may overflow
    if (!usable) t = finite ? 0.0f : __builtin_nanf("");
    const vf factor = splat(usable ? 1.0f / t : 0.0f);
    const ptrdiff_t padded = (columns + 63) / 64 * 64;
    __builtin_memset(out + columns, 0, padded - columns + ROW_TAIL);
    vi sum = vi{};
    if (usable)
        each_vector(columns, [&](ptrdiff_t k, ptrdiff_t lanes) ALWAYS_INLINE {
            vi q = nearest(scaled(k, lanes) * factor);  // at most 127 by the choice of t
            sum += q;
            to_bytes(out + k, q);  // a last part spills zeros into the padding
        });
    else
        __builtin_memset(out, 0, columns);
    int32_t total = 0;
    for (int i = 0; i < VL; ++i) total += sum[i];
    __builtin_memcpy(out + padded + ROW_SCALE, &t, 4);
    __builtin_memcpy(out + padded + ROW_SUM, &total, 4);
}

static void quantize_rows(const float* x, ptrdiff_t stride, const float* inverse, ptrdiff_t rows,
                          ptrdiff_t columns, uint8_t* out, ptrdiff_t out_stride) {
    for (ptrdiff_t r = 0; r < rows; ++r) quantize_row(x + r * stride, inverse, columns, out + r * out_stride);
}

// R rows at once, because each alone waits for its sums.
template <int R>
static void layer_norm_rows(const float* x, const float* residual, const float* gamma, const float* beta,
                            float epsilon, ptrdiff_t columns, float* out) {
    vf sum[R], squares[R], mean[R], scale[R];
    for (int r = 0; r < R; ++r) sum[r] = squares[r] = vf{};
    each_vector(columns, [&](ptrdiff_t k, ptrdiff_t lanes) ALWAYS_INLINE {
        for (int r = 0; r < R; ++r) {
            vf v = load_up_to(x + r * columns + k, lanes);
            if (residual) v += load_up_to(residual + r * columns + k, lanes);
            sum[r] += v;
            store_up_to(out + r * columns + k, v, lanes);
        }
    });
    for (int r = 0; r < R; ++r) mean[r] = splat(sum_lanes(sum[r]) / (float)columns);
    each_vector(columns, [&](ptrdiff_t k, ptrdiff_t lanes) ALWAYS_INLINE {
        for (int r = 0; r < R; ++r) {
            vf d = keep(load_up_to(out + r * columns + k, lanes) - mean[r], lanes, 0.0f);
            squares[r] = fma(d, d, squares[r]);
        }
    });
    for (int r = 0; r < R; ++r)
        scale[r] = splat(1.0f / __builtin_sqrtf(sum_lanes(squares[r]) / (float)columns + epsilon));
    each_vector(columns, [&](ptrdiff_t k, ptrdiff_t lanes) ALWAYS_INLINE {
        vf factor = load_up_to(gamma + k, lanes), offset = load_up_to(beta + k, lanes);
        for (int r = 0; r < R; ++r) {
            vf d = (load_up_to(out + r * columns + k, lanes) - mean[r]) * scale[r];
            store_up_to(out + r * columns + k, fma(d, factor, offset), lanes);
        }
    });
}

static void layer_norm(const float* x, const float* residual, const float* gamma, const float* beta,
                       float epsilon, ptrdiff_t rows, ptrdiff_t columns, float* out) {
    for (ptrdiff_t done = 0; done < rows;) {
        const ptrdiff_t at = done * columns;
        const float* beside = residual ? residual + at : nullptr;
        if (rows - done >= 4) {
            layer_norm_rows<4>(x + at, beside, gamma, beta, epsilon, columns, out + at);
            done += 4;
        } else {
            layer_norm_rows<1>(x + at, beside, gamma, beta, epsilon, columns, out + at);
            done += 1;
        }
    }
}

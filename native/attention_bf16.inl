// Self-attention of one head with bfloat16 products and float32 sums, at twice the rate of float32.
//
// Included after attention.inl by isa_avx512.cpp. A four-byte element is here a pair of bfloat16, neighbours
// along the axis that is summed over. Instructions stand in assembly so that the file needs no option that
// would let the compiler use them elsewhere.

struct PairMultiplyAdd {
    INLINE_MEMBER vf operator()(vf a, vf b, vf c) const {
        asm("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
        return c;
    }
};

// 2 * VL floats rounded to bfloat16, in order.
INLINE vf round_pairs(vf low, vf high) {
    vf out;
    asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(out) : "v"(low), "v"(high));
    return out;
}

// count floats as ceil(count / 2) pairs; room for whole vectors of pairs.
INLINE void round_row(const float* in, ptrdiff_t count, float* out) {
    for (ptrdiff_t k = 0; k < count; k += 2 * VL) {
        vf low = load_up_to(in + k, count - k);
        vf high = count - k > VL ? load_up_to(in + k + VL, count - k - VL) : vf{};
        store(out + k / 2, round_pairs(low, high));
    }
}

struct HeadInHalf {
    const AttentionBlock* b;
    ptrdiff_t width, query_stride, value_stride;
    const float *keys, *values;
    float *queries, *scores, *probabilities;

    template <int R>
    void operator()(ptrdiff_t row, Rows<R>) const {
        for (int r = 0; r < R; ++r)
            round_row(b->queries + (row + r) * b->stride, b->head_size, queries + r * query_stride);
        product<PairMultiplyAdd, R>(queries, query_stride, keys, width, (b->head_size + 1) / 2, nullptr, scores,
                                    width, padded(b->length));
        float factors[R];
        softmax<R>(scores, width, b->length, b->scale, factors);
        for (int r = 0; r < R; ++r) round_row(scores + r * width, b->length, probabilities + r * width);
        product<PairMultiplyAdd, R>(probabilities, width, values, value_stride, (b->length + 1) / 2, factors,
                                    b->out + row * b->out_stride, b->out_stride, b->head_size);
    }
};

static void attention_half(const AttentionBlock* b, void* scratch) {
    const ptrdiff_t width = odd_lines(b->length), value_stride = padded(b->head_size);
    const ptrdiff_t pairs = (b->head_size + 1) / 2, query_stride = padded(pairs);
    float* keys = (float*)scratch;
    float* values = keys + pairs * width;
    float* scores = values + (b->length + 1) / 2 * value_stride;
    float* probabilities = scores + FLOAT_ROWS * width;
    float* queries = probabilities + FLOAT_ROWS * width;
    float* rounded = queries + FLOAT_ROWS * query_stride;
    for (ptrdiff_t k = 0; k < b->length; ++k)
        round_row(b->keys + k * b->stride, b->head_size, rounded + k * query_stride);
    transpose_block(rounded, query_stride, b->length, pairs, keys, width);
    for (ptrdiff_t k = 0; k < b->length; k += 2)
        each_vector(b->head_size, [&](ptrdiff_t c, ptrdiff_t lanes) ALWAYS_INLINE {
            const float* at = b->values + k * b->stride + c;
            vf first = load_up_to(at, lanes), second = k + 1 < b->length ? load_up_to(at + b->stride, lanes) : vf{};
            vf low = zip_low(first, second), high = zip_high(first, second);
            store(values + k / 2 * value_stride + c, round_pairs(low, high));
        });
    each_block(b->rows, HeadInHalf{b, width, query_stride, value_stride, keys, values, queries, scores, probabilities});
}

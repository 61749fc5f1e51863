// Vector arithmetic on top of an instruction set's few primitives.
//
// Included inside the anonymous namespace of each instruction set's file, after it has defined
//   VL                              floats in a vector
//   vf fma(vf a, vf b, vf c)        a * b + c
//   vi nearest(vf)                  to int32, halves to even
//   vf maximum(vf a, vf b)          a > b ? a : b; minimum alike, and maximum of vi (compilers see no single
//                                 instruction in that)
//   vi from_bytes(const uint8_t*)   VL signed bytes; void to_bytes(uint8_t*, vi) the low bytes, which hold the values
//   vf zip_low(vf a, vf b)          a0 b0 a1 b1 …, and zip_high from the upper halves
// and the types below. Everything here has internal linkage.

#define ALWAYS_INLINE __attribute__((always_inline))
#define INLINE_MEMBER inline ALWAYS_INLINE
#define INLINE static inline ALWAYS_INLINE

INLINE vf splat(float x) { return x - vf{}; }  // not x + 0, which would be an addition: -0 + 0 is 0
INLINE vi splat(int32_t x) { return vi{} + x; }

INLINE vf load(const float* p) {
    vf v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }

// The first n < VL floats; the other lanes are zero.
INLINE vf load_part(const float* p, ptrdiff_t n) {
    float lanes[VL] = {};
    for (ptrdiff_t i = 0; i < n; ++i) lanes[i] = p[i];
    return load(lanes);
}

INLINE void store_part(float* p, vf v, ptrdiff_t n) {
    float lanes[VL];
    store(lanes, v);
    for (ptrdiff_t i = 0; i < n; ++i) p[i] = lanes[i];
}

INLINE vf load_up_to(const float* p, ptrdiff_t n) { return n >= VL ? load(p) : load_part(p, n); }

INLINE void store_up_to(float* p, vf v, ptrdiff_t n) {
    if (n >= VL)
        store(p, v);
    else
        store_part(p, v, n);
}

INLINE vi lane_numbers() {
    vi v;
    for (int i = 0; i < VL; ++i) v[i] = i;
    return v;
}

// v in the first n lanes, `other` in the rest.
INLINE vf keep(vf v, ptrdiff_t n, float other) {
    return n >= VL ? v : lane_numbers() < splat((int32_t)n) ? v : splat(other);
}

INLINE float sum_lanes(vf v) {
    for (int width = 1; width < VL; width *= 2) v = zip_low(v, v) + zip_high(v, v);
    return v[0];
}

INLINE float max_lanes(vf v) {
    for (int width = 1; width < VL; width *= 2) v = maximum(zip_low(v, v), zip_high(v, v));
    return v[0];
}

// f(start, lanes) over [0, count); lanes is the constant VL but for a last part of a vector.
template <class F>
INLINE void each_vector(ptrdiff_t count, F f) {
    ptrdiff_t k = 0;
    for (; k + VL <= count; k += VL) f(k, (ptrdiff_t)VL);
    if (k < count) f(k, count - k);
}

// 2**x, relative error 1e-7; x below -126 counts as -126.
INLINE vf exp2_(vf x) {
    x = maximum(x, splat(-126.0f));
    vi whole = nearest(x);
    vf part = x - __builtin_convertvector(whole, vf);
    vf p = splat(0.00132764713f);
    p = fma(p, part, splat(0.00967554189f));
    p = fma(p, part, splat(0.0555071309f));
    p = fma(p, part, splat(0.240221202f));
    p = fma(p, part, splat(0.693146944f));
    p = fma(p, part, splat(1.00000012f));
    return (vf)((vi)p + (whole << 23));
}

// erf(x) as x times a minimax polynomial of x**2 on [0, 3.6**2]; beyond, the value at 3.6. Error 6e-7.
INLINE vf erf_(vf x) {
    x = minimum(maximum(x, splat(-3.6f)), splat(3.6f));
    vf s = fma(x * x, splat(2.0f / (3.6f * 3.6f)), splat(-1.0f));
    vf p = splat(0.00224673003f);
    p = fma(p, s, splat(-0.00578937121f));
    p = fma(p, s, splat(0.00562973879f));
    p = fma(p, s, splat(-0.00818564557f));
    p = fma(p, s, splat(0.0201654173f));
    p = fma(p, s, splat(-0.0344702676f));
    p = fma(p, s, splat(0.0487972423f));
    p = fma(p, s, splat(-0.0675117522f));
    p = fma(p, s, splat(0.0897068754f));
    p = fma(p, s, splat(-0.113853425f));
    p = fma(p, s, splat(0.143818796f));
    p = fma(p, s, splat(-0.195488572f));
    p = fma(p, s, splat(0.392712027f));
    return p * x;
}

INLINE vf silu(vf x) { return x / (splat(1.0f) + exp2_(minimum(x * splat(-1.44269504f), splat(126.0f)))); }

INLINE vf tanh_(vf x) {
    vf clipped = minimum(maximum(x, splat(-10.0f)), splat(10.0f));
    vf e = exp2_(clipped * splat(2.88539008f));  // e**(2x)
    return (e - 1.0f) / (e + 1.0f);
}

template <class F>
INLINE void apply(float* x, ptrdiff_t count, F f) {
    each_vector(count, [&](ptrdiff_t i, ptrdiff_t lanes) ALWAYS_INLINE {
        store_up_to(x + i, f(load_up_to(x + i, lanes)), lanes);
    });
}

#ifdef GELU_BY_TABLE
#include "gelu_table.inl"
#else
static void gelu(float* x, ptrdiff_t count) {
    apply(x, count, [](vf v) ALWAYS_INLINE {
        vf h = v * splat(0.5f);
        return fma(h, erf_(v * splat(0.707106781f)), h);
    });
}
#endif

static void activate(float* x, ptrdiff_t count, Activation kind) {
    switch (kind) {
        case NONE: return;
        case GELU_ERF: return gelu(x, count);
        case GELU_TANH:
            return apply(x, count, [](vf v) ALWAYS_INLINE {
                vf h = v * splat(0.5f);
                return fma(h, tanh_(splat(0.797884561f) * fma(v * v * v, splat(0.044715f), v)), h);
            });
        case RELU: return apply(x, count, [](vf v) ALWAYS_INLINE { return v < vf{} ? vf{} : v; });
        case SILU:
            return apply(x, count, [](vf v) ALWAYS_INLINE { return silu(v); });
        case TANH: return apply(x, count, [](vf v) ALWAYS_INLINE { return tanh_(v); });
    }
}

// m becomes its transpose: log2(VL) rounds of perfect shuffles.
INLINE void transpose(vf m[VL]) {
    for (int round = 1; round < VL; round *= 2) {
        vf next[VL];
        for (int i = 0; i < VL / 2; ++i) {
            next[2 * i] = zip_low(m[i], m[i + VL / 2]);
            next[2 * i + 1] = zip_high(m[i], m[i + VL / 2]);
        }
        for (int i = 0; i < VL; ++i) m[i] = next[i];
    }
}

// out[c * out_stride + r] = in[r * in_stride + c] for r < rows, c < columns; rows up to the next multiple of
// VL become zero. out has room for that.
static void transpose_block(const float* in, ptrdiff_t in_stride, ptrdiff_t rows, ptrdiff_t columns, float* out,
                            ptrdiff_t out_stride) {
    for (ptrdiff_t r = 0; r < rows; r += VL)
        for (ptrdiff_t c = 0; c < columns; c += VL) {
            vf m[VL];
            for (int i = 0; i < VL; ++i)
                m[i] = r + i < rows ? load_up_to(in + (r + i) * in_stride + c, columns - c) : vf{};
            transpose(m);
            ptrdiff_t count = columns - c < VL ? columns - c : VL;
            for (ptrdiff_t i = 0; i < count; ++i) store(out + (c + i) * out_stride + r, m[i]);
        }
}

struct MultiplyAdd {
    INLINE_MEMBER vf operator()(vf a, vf b, vf c) const { return fma(a, b, c); }
};

// acc[r][v] = sum over k, in order, of x[r * stride + k] * w[k * w_stride + v * VL ..]. What an element is (four
// bytes) and how it is multiplied is Op's business.
template <class Op, int R, int V>
INLINE void multiply(const float* x, ptrdiff_t stride, const float* w, ptrdiff_t w_stride, ptrdiff_t count,
                     vf (&acc)[R][V]) {
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) acc[r][v] = vf{};
    for (ptrdiff_t k = 0; k < count; ++k) {
        vf b[V];
        for (int v = 0; v < V; ++v) b[v] = load(w + k * w_stride + v * VL);
        for (int r = 0; r < R; ++r) {
            int32_t bits;
            __builtin_memcpy(&bits, x + r * stride + k, 4);
            for (int v = 0; v < V; ++v) acc[r][v] = Op()((vf)splat(bits), b[v], acc[r][v]);
        }
    }
}

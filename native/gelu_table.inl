// GELU by table: x / 2 * erfc(-x / sqrt 2) = max(x, 0) - g(|x|), where g fades out by 5.5, so 32 cubics in two
// registers for each coefficient cover it. Half the instructions of the polynomial, error 5e-7.
//
// Included after vector.inl by isa_avx512.cpp, the only instruction set that looks up 32 floats at once.
enum { GELU_SEGMENTS = 32 };
#define GELU_END 5.5f

struct GeluTable {
    float coefficients[4][GELU_SEGMENTS];
};

// Each cubic takes g's values at the four Chebyshev nodes of its segment, whose coordinate runs from 0 to 1.
static GeluTable make_gelu_table() {
    GeluTable table;
    for (int s = 0; s < GELU_SEGMENTS; ++s) {
        double node[4], c[4];  // Newton's divided differences, then powers
        for (int i = 0; i < 4; ++i) {
            node[i] = 0.5 - 0.5 * cos((2 * i + 1) * 0.39269908169872414);  // pi / 8
            double a = (s + node[i]) * (double)GELU_END / GELU_SEGMENTS;
            c[i] = 0.5 * a * erfc(a * 0.70710678118654752);
        }
        for (int order = 1; order < 4; ++order)
            for (int i = 3; i >= order; --i) c[i] = (c[i] - c[i - 1]) / (node[i] - node[i - order]);
        for (int i = 2; i >= 0; --i)
            for (int j = i; j < 3; ++j) c[j] -= node[i] * c[j + 1];
        for (int i = 0; i < 4; ++i) table.coefficients[i][s] = (float)c[i];
    }
    return table;
}

static void gelu(float* x, ptrdiff_t count) {
    static const GeluTable table = make_gelu_table();
    vf low[4], high[4];
    for (int i = 0; i < 4; ++i) {
        low[i] = load(table.coefficients[i]);
        high[i] = load(table.coefficients[i] + VL);
    }
    apply(x, count, [&](vf v) ALWAYS_INLINE {
        vf size = (vf)((vi)v & splat(0x7fffffff));
        vf place = minimum(size * splat(GELU_SEGMENTS / GELU_END), splat(31.999998f));
        vi segment = __builtin_convertvector(place, vi);
        vf t = place - __builtin_convertvector(segment, vf);
        vf g = lookup(low[3], high[3], segment);
        for (int i = 2; i >= 0; --i) g = fma(g, t, lookup(low[i], high[i], segment));
        return maximum(vf{}, v) - g;  // in this order NaN comes through
    });
}

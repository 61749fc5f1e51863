// The int8 product for a few rows, as when a language model writes token by token: tiles are multiplied as
// they are read, a group at a time, and never stored unpacked. The sums are those of linear_int8 exactly, because
// they are integers.
//
// Included after linear.inl by each instruction set's file, which has defined FEW_ROWS, how many rows at most.

enum { AHEAD = 6144 };  // bytes to prefetch into the second-level cache: by trial, 17 % faster than a third less

// The same four activations for every lane.
#ifndef DOT_READS_MEMORY
INLINE vi dot(vi acc, vb weights, const uint8_t* activations) {
    int32_t four;
    __builtin_memcpy(&four, activations, 4);
    return dot(acc, weights, splat(four));
}
#endif

// total += the products of one panel with R rows. half_sums[r * groups + g]: half the number of codes times the
// sum of row r's activations in group g.
template <int BITS, int R>
static void multiply_panel(const Weights* w, const uint8_t* panel, const uint8_t* const* a, const int32_t* half_sums,
                           vi (&total)[R][SUB]) {
    const uint8_t* codes = panel + w->codes_offset;
    for (ptrdiff_t g = 0; g < w->groups; ++g, codes += w->group_size * 2 * BITS) {
        vi acc[R][SUB];
        for (int r = 0; r < R; ++r)
            for (int s = 0; s < SUB; ++s) acc[r][s] = splat(-half_sums[r * w->groups + g]);
        // Columns that the matrix has not got have no activations to read.
        ptrdiff_t end = w->columns - g * w->group_size;
        if (end > w->group_size) end = w->group_size;
        for (ptrdiff_t ahead = 0; ahead < w->group_size * 2 * BITS; ahead += 64)
            __builtin_prefetch(codes + ahead + AHEAD, 0, 2);
        for (ptrdiff_t c = 0; c < end; c += 32) {
            const Planes<BITS> planes(codes, w->group_size, c);
#pragma GCC unroll 8
            for (int i = 0; i < 8; ++i)
#pragma GCC unroll 4
                for (int s = 0; s < SUB; ++s) {
                    vb u = planes.quad(i, s);
                    if (BITS == 8 && WEIGHT_OFFSET == 0) u ^= splat_byte(128);
#pragma GCC unroll 8
                    for (int r = 0; r < R; ++r) acc[r][s] = dot(acc[r][s], u, a[r] + g * w->group_size + c + 4 * i);
                }
        }
        for (int s = 0; s < SUB; ++s) {
            const vi m = from_bytes(panel + 64 + g * PANEL + s * VL);
            for (int r = 0; r < R; ++r) total[r][s] += acc[r][s] * m;
        }
    }
}

template <int BITS, int R>
static void few_panels(const Weights* w, ptrdiff_t first, ptrdiff_t panels, const uint8_t* const* a,
                       const int32_t* half_sums, ptrdiff_t scale_at, ptrdiff_t rows, const float* bias, Activation kind,
                       float* out, ptrdiff_t out_stride) {
    for (ptrdiff_t p = first; p < first + panels; ++p) {
        Finish f;
        begin(f, w, p, 1, bias, kind, out, out_stride);
        vi total[R][SUB];
        for (int r = 0; r < R; ++r)
            for (int s = 0; s < SUB; ++s) total[r][s] = vi{};
        multiply_panel<BITS, R>(w, w->data + p * w->panel_bytes, a, half_sums, total);
        for (ptrdiff_t r = 0; r < R && r < rows; ++r) {
            float t;
            __builtin_memcpy(&t, a[r] + scale_at + ROW_SCALE, 4);
            vf y[1][SUB];
            for (int s = 0; s < SUB; ++s)
                y[0][s] = fma(__builtin_convertvector(total[r][s], vf), splat(t) * load(f.scales + s * VL),
                              load(f.bias + s * VL));
            finish<1, SUB>(f, f.out + r * out_stride, y);
        }
    }
}

// half_sums: see multiply_panel; rows * groups of them, the rows beyond `rows` are those of the last.
template <int BITS>
static void few_of_bits(const Weights* w, ptrdiff_t first, ptrdiff_t panels, const uint8_t* a, ptrdiff_t stride,
                        const int32_t* half_sums, ptrdiff_t rows, const float* bias, Activation kind, float* out,
                        ptrdiff_t out_stride) {
    const ptrdiff_t scale_at = (w->columns + 63) / 64 * 64;
    const uint8_t* each[FEW_ROWS];
    for (ptrdiff_t r = 0; r < FEW_ROWS; ++r) each[r] = a + (r < rows ? r : rows - 1) * stride;
    if (rows == 1) return few_panels<BITS, 1>(w, first, panels, each, half_sums, scale_at, rows, bias, kind, out, out_stride);
    if (rows == 2) return few_panels<BITS, 2>(w, first, panels, each, half_sums, scale_at, rows, bias, kind, out, out_stride);
#if FEW_ROWS > 4
    if (rows > 4) return few_panels<BITS, 8>(w, first, panels, each, half_sums, scale_at, rows, bias, kind, out, out_stride);
#endif
    few_panels<BITS, 4>(w, first, panels, each, half_sums, scale_at, rows, bias, kind, out, out_stride);
}

static void linear_few(const Weights* w, ptrdiff_t first, ptrdiff_t panels, const uint8_t* a, ptrdiff_t stride,
                       const int32_t* half_sums, ptrdiff_t rows, const float* bias, Activation kind, float* out,
                       ptrdiff_t out_stride) {
    switch (w->bits) {
        case 1: return few_of_bits<1>(w, first, panels, a, stride, half_sums, rows, bias, kind, out, out_stride);
        case 2: return few_of_bits<2>(w, first, panels, a, stride, half_sums, rows, bias, kind, out, out_stride);
        case 3: return few_of_bits<3>(w, first, panels, a, stride, half_sums, rows, bias, kind, out, out_stride);
        case 4: return few_of_bits<4>(w, first, panels, a, stride, half_sums, rows, bias, kind, out, out_stride);
        case 5: return few_of_bits<5>(w, first, panels, a, stride, half_sums, rows, bias, kind, out, out_stride);
        case 6: return few_of_bits<6>(w, first, panels, a, stride, half_sums, rows, bias, kind, out, out_stride);
        case 7: return few_of_bits<7>(w, first, panels, a, stride, half_sums, rows, bias, kind, out, out_stride);
        default: return few_of_bits<8>(w, first, panels, a, stride, half_sums, rows, bias, kind, out, out_stride);
    }
}

// Products with a nested matrix, one bit plane at a time, added to integers that are there already.
//
// Included after few.inl by each instruction set's file.

// Pointers to `count` rows; those beyond `rows` are the last again.
template <int R>
INLINE void row_pointers(const uint8_t* a, ptrdiff_t stride, ptrdiff_t rows, const uint8_t* (&each)[R]) {
    for (ptrdiff_t r = 0; r < R; ++r) each[r] = a + (r < rows ? r : rows - 1) * stride;
}

template <int R>
INLINE void add_up(vi (&total)[R][SUB], int shift, ptrdiff_t rows, int32_t* acc, ptrdiff_t acc_stride) {
    for (ptrdiff_t r = 0; r < R && r < rows; ++r)
        for (int s = 0; s < SUB; ++s) {
            int32_t* at = acc + r * acc_stride + s * VL;
            vi before;
            __builtin_memcpy(&before, at, sizeof before);
            before += total[r][s] << shift;
            __builtin_memcpy(at, &before, sizeof before);
        }
}

template <int BITS, int R>
static void base_panels(const Weights* w, ptrdiff_t first, ptrdiff_t panels, const uint8_t* a, ptrdiff_t stride,
                        const int32_t* sums, ptrdiff_t rows, int shift, int32_t* acc, ptrdiff_t acc_stride) {
    const uint8_t* each[R];
    row_pointers<R>(a, stride, rows, each);
    constexpr ptrdiff_t MOST = 64;  // groups at a time, so that their half sums are on the stack
    for (ptrdiff_t p = first; p < first + panels; ++p) {
        vi total[R][SUB];
        for (int r = 0; r < R; ++r)
            for (int s = 0; s < SUB; ++s) total[r][s] = vi{};
        for (ptrdiff_t g = 0; g < w->groups; g += MOST) {
            // A view of the matrix that holds these groups only.
            Weights part = *w;
            part.groups = w->groups - g < MOST ? w->groups - g : MOST;
            part.columns = w->columns - g * w->group_size;
            part.codes_offset = w->codes_offset + g * (w->group_size * 2 * BITS - PANEL);
            int32_t half[R * MOST];
            const uint8_t* at[R];
            for (ptrdiff_t r = 0; r < R; ++r) {
                at[r] = each[r] + g * w->group_size;
                for (ptrdiff_t i = 0; i < part.groups; ++i)
                    half[r * part.groups + i] = sums[(r < rows ? r : rows - 1) * w->groups + g + i] * (1 << (BITS - 1));
            }
            multiply_panel<BITS, R>(&part, w->data + p * w->panel_bytes + g * PANEL, at, half, total);
        }
        add_up<R>(total, shift, rows, acc + p * PANEL, acc_stride);
    }
}

template <int BITS>
static void base_of_bits(const Weights* w, ptrdiff_t first, ptrdiff_t panels, const uint8_t* a, ptrdiff_t stride,
                         const int32_t* sums, ptrdiff_t rows, int shift, int32_t* acc, ptrdiff_t acc_stride) {
    if (rows == 1) return base_panels<BITS, 1>(w, first, panels, a, stride, sums, rows, shift, acc, acc_stride);
    if (rows == 2) return base_panels<BITS, 2>(w, first, panels, a, stride, sums, rows, shift, acc, acc_stride);
    base_panels<BITS, 4>(w, first, panels, a, stride, sums, rows < 4 ? rows : 4, shift, acc, acc_stride);
    if (rows > 4)
        base_panels<BITS, 4>(w, first, panels, a + 4 * stride, stride, sums + 4 * w->groups, rows - 4, shift,
                             acc + 4 * acc_stride, acc_stride);
}

static void add_base(const Weights* w, ptrdiff_t first, ptrdiff_t panels, const uint8_t* a, ptrdiff_t stride,
                     const int32_t* sums, ptrdiff_t rows, int shift, int32_t* acc, ptrdiff_t acc_stride) {
    switch (w->bits) {
        case 2: return base_of_bits<2>(w, first, panels, a, stride, sums, rows, shift, acc, acc_stride);
        case 3: return base_of_bits<3>(w, first, panels, a, stride, sums, rows, shift, acc, acc_stride);
        case 4: return base_of_bits<4>(w, first, panels, a, stride, sums, rows, shift, acc, acc_stride);
        case 5: return base_of_bits<5>(w, first, panels, a, stride, sums, rows, shift, acc, acc_stride);
        case 6: return base_of_bits<6>(w, first, panels, a, stride, sums, rows, shift, acc, acc_stride);
        default: return base_of_bits<7>(w, first, panels, a, stride, sums, rows, shift, acc, acc_stride);
    }
}

// Twice the sum where the sign is plus, less the sum of all: activations times signs.
template <int R>
static void sign_panels(const Signs* w, ptrdiff_t first, ptrdiff_t panels, const uint8_t* a, ptrdiff_t stride,
                        const int32_t* sums, ptrdiff_t rows, int32_t* acc, ptrdiff_t acc_stride) {
    const uint8_t* each[R];
    row_pointers<R>(a, stride, rows, each);
    for (ptrdiff_t p = first; p < first + panels; ++p) {
        const uint8_t* panel = w->data + p * w->panel_bytes;
        const uint8_t* codes = panel + w->groups * PANEL;
        vi total[R][SUB];
        for (int r = 0; r < R; ++r)
            for (int s = 0; s < SUB; ++s) total[r][s] = vi{};
        for (ptrdiff_t g = 0; g < w->groups; ++g, codes += w->group_size * 2) {
            vi plus[R][SUB];
            for (int r = 0; r < R; ++r)
                for (int s = 0; s < SUB; ++s) plus[r][s] = vi{};
            ptrdiff_t end = w->columns - g * w->group_size;
            if (end > w->group_size) end = w->group_size;
            for (ptrdiff_t c = 0; c < end; c += 32)
#pragma GCC unroll 4
                for (int s = 0; s < SUB; ++s) {
                    const vb eight = load_bytes(codes + c * 2 + s * VB);
#pragma GCC unroll 8
                    for (int i = 0; i < 8; ++i) {
                        const vb u = field(eight, i, 1, 0);
#pragma GCC unroll 4
                        for (int r = 0; r < R; ++r)
                            plus[r][s] = dot(plus[r][s], u, each[r] + g * w->group_size + c + 4 * i);
                    }
                }
            for (int s = 0; s < SUB; ++s) {
                const vi m = from_bytes(panel + g * PANEL + s * VL);
                for (int r = 0; r < R; ++r)
                    total[r][s] += (plus[r][s] + plus[r][s] - splat(sums[(r < rows ? r : rows - 1) * w->groups + g])) * m;
            }
        }
        add_up<R>(total, 0, rows, acc + p * PANEL, acc_stride);
    }
}

static void add_signs(const Signs* w, ptrdiff_t first, ptrdiff_t panels, const uint8_t* a, ptrdiff_t stride,
                      const int32_t* sums, ptrdiff_t rows, int32_t* acc, ptrdiff_t acc_stride) {
    if (rows == 1) return sign_panels<1>(w, first, panels, a, stride, sums, rows, acc, acc_stride);
    if (rows == 2) return sign_panels<2>(w, first, panels, a, stride, sums, rows, acc, acc_stride);
    sign_panels<4>(w, first, panels, a, stride, sums, rows < 4 ? rows : 4, acc, acc_stride);
    if (rows > 4)
        sign_panels<4>(w, first, panels, a + 4 * stride, stride, sums + 4 * w->groups, rows - 4, acc + 4 * acc_stride,
                       acc_stride);
}

static const PlaneTable plane_table = {add_base, add_signs};

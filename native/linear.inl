// Linear layers: unpacking of tiles, the int8 product and the float product.
//
// Included after vector.inl by each instruction set's file, which has defined besides
//   VB                         bytes in a vector (4 * VL)
//   TILE_PANELS, INT_ROWS, FLOAT_ROWS   the register tile: panels wide, rows of activations high
//   WEIGHT_OFFSET              what is added to each weight byte when it is unpacked (128: stored unsigned)
//   vb multiply_bytes(vb a, vb b)       low bytes of the products
//   vi dot(vi acc, vb weights, vi activations)   acc += sums of 4 byte products in each 32-bit lane

INLINE vb load_bytes(const uint8_t* p) {
    vb v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

INLINE vb splat_byte(int x) { return vb{} + (uint8_t)x; }

// Bits [from, from + width) of each byte, moved to bit `to`.
INLINE vb field(vb v, int from, int width, int to) {
    const vh moved = from >= to ? (vh)v >> (uint16_t)(from - to) : (vh)v << (uint16_t)(to - from);
    return (vb)moved & splat_byte(((1 << width) - 1) << to);
}

enum { PREFETCH = 4096 };  // bytes ahead of the codes being unpacked
enum { QUAD = 64, SUB = QUAD / VB };  // bytes of 4 columns of a panel; vectors in them

// The codes of 32 columns of a panel: eight quads from each plane, of width 4, 2 and 1 (or 8).
template <int BITS>
struct Planes {
    const uint8_t *four, *two, *one;

    INLINE_MEMBER Planes(const uint8_t* codes, ptrdiff_t group_size, ptrdiff_t column)
        : four(codes + column * (BITS == 8 ? 16 : 8)),
          two(codes + (BITS & 4 ? group_size * 8 : 0) + column * 4),
          one(codes + group_size * ((BITS & 4 ? 8 : 0) + (BITS & 2 ? 4 : 0)) + column * 2) {}

    // Part s of quad i.
    INLINE_MEMBER vb quad(int i, int s) const {
        vb u = vb{};
        if (BITS == 8) u = load_bytes(four + i * QUAD + s * VB);
        if (BITS & 4) u = field(load_bytes(four + i / 2 * QUAD + s * VB), i % 2 * 4, 4, 0);
        if (BITS & 2) u |= field(load_bytes(two + i / 4 * QUAD + s * VB), i % 4 * 2, 2, BITS & 4);
        if (BITS & 1) u |= field(load_bytes(one + s * VB), i, 1, BITS & 6);
        return u;
    }
};

template <int BITS>
INLINE void unpack_block(const uint8_t* codes, ptrdiff_t group_size, ptrdiff_t column, const vb (&m)[SUB],
                         const vb (&shift)[SUB], uint8_t* out) {
    const Planes<BITS> planes(codes, group_size, column);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
#pragma GCC unroll 4
        for (int s = 0; s < SUB; ++s) {
            vb u = multiply_bytes(planes.quad(i, s), m[s]) - shift[s];
            __builtin_memcpy(out + i * QUAD + s * VB, &u, VB);
        }
}

// Panels [first, first + panels) as bytes w8 + WEIGHT_OFFSET: out[panel][quad][64], unpacked_bytes apart.
template <int BITS>
static void unpack_tiles(const Weights* w, ptrdiff_t first, ptrdiff_t panels, uint8_t* out) {
    for (ptrdiff_t p = 0; p < panels; ++p, out += w->unpacked_bytes) {
        const uint8_t* panel = w->data + (first + p) * w->panel_bytes;
        const uint8_t* codes = panel + w->codes_offset;
        uint8_t* target = out;
        for (ptrdiff_t g = 0; g < w->groups; ++g, codes += w->group_size * 2 * BITS) {
            for (ptrdiff_t ahead = 0; ahead < w->group_size * 2 * BITS; ahead += 64)
                __builtin_prefetch(codes + ahead + PREFETCH);
            vb m[SUB], shift[SUB];
            for (int s = 0; s < SUB; ++s) {
                vi spread = from_bytes(panel + 64 + g * PANEL + s * VL) & 0xff;
                spread |= spread << 8;
                m[s] = (vb)(spread | spread << 16);
                shift[s] = multiply_bytes(m[s], splat_byte(1 << (BITS - 1))) - splat_byte(WEIGHT_OFFSET);
            }
            for (ptrdiff_t c = 0; c < w->group_size; c += 32, target += 8 * QUAD)
                unpack_block<BITS>(codes, w->group_size, c, m, shift, target);
        }
    }
}

static void unpack(const Weights* w, ptrdiff_t first, ptrdiff_t panels, uint8_t* out) {
    switch (w->bits) {
        case 1: return unpack_tiles<1>(w, first, panels, out);
        case 2: return unpack_tiles<2>(w, first, panels, out);
        case 3: return unpack_tiles<3>(w, first, panels, out);
        case 4: return unpack_tiles<4>(w, first, panels, out);
        case 5: return unpack_tiles<5>(w, first, panels, out);
        case 6: return unpack_tiles<6>(w, first, panels, out);
        case 7: return unpack_tiles<7>(w, first, panels, out);
        default: return unpack_tiles<8>(w, first, panels, out);
    }
}

// What becomes of the sums: out = sum * scale + bias, then the activation.
struct Finish {
    float scales[TILE_PANELS * PANEL], bias[TILE_PANELS * PANEL];
    Activation kind;
    float* out;
    ptrdiff_t stride, count;  // count: columns of `out` that exist
};

template <int R, int V>
INLINE void finish(const Finish& f, float* out, vf (&y)[R][V]) {
    if (f.kind != NONE) activate((float*)y, R * V * VL, f.kind);
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v)
            if (f.count == V * VL)
                store(out + r * f.stride + v * VL, y[r][v]);
            else if (v * VL < f.count)
                store_up_to(out + r * f.stride + v * VL, y[r][v], f.count - v * VL);
}

template <int R, int V>
static void int8_block(const uint8_t* a, ptrdiff_t stride, ptrdiff_t quads, ptrdiff_t scale_at, const uint8_t* w,
                       ptrdiff_t w_stride, const Finish& f, float* out) {
    vi acc[R][V];
    for (int r = 0; r < R; ++r) {
        int32_t sum;
        __builtin_memcpy(&sum, a + r * stride + scale_at + ROW_SUM, 4);
        for (int v = 0; v < V; ++v) acc[r][v] = splat(-WEIGHT_OFFSET * sum);
    }
    for (ptrdiff_t q = 0; q < quads; ++q) {
        vb b[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) b[v] = load_bytes(w + v / SUB * w_stride + q * QUAD + v % SUB * VB);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            int32_t four;
            __builtin_memcpy(&four, a + r * stride + q * 4, 4);
            vi x = splat(four);
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) acc[r][v] = dot(acc[r][v], b[v], x);
        }
    }
    vf y[R][V];
    for (int r = 0; r < R; ++r) {
        float t;
        __builtin_memcpy(&t, a + r * stride + scale_at + ROW_SCALE, 4);
        for (int v = 0; v < V; ++v)
            y[r][v] = fma(__builtin_convertvector(acc[r][v], vf), splat(t) * load(f.scales + v * VL),
                          load(f.bias + v * VL));
    }
    finish<R, V>(f, out, y);
}

template <int PANELS>
static void int8_rows(const uint8_t* a, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t columns, const uint8_t* w,
                      ptrdiff_t w_stride, const Finish& f) {
    constexpr int V = PANELS * SUB;
    ptrdiff_t quads = (columns + 3) / 4, scale_at = (columns + 63) / 64 * 64, r = 0;
    float* out = f.out;
    for (; r + INT_ROWS <= rows; r += INT_ROWS)
        int8_block<INT_ROWS, V>(a + r * stride, stride, quads, scale_at, w, w_stride, f, out + r * f.stride);
    if (INT_ROWS > 4 && rows - r >= 4) {
        int8_block<4, V>(a + r * stride, stride, quads, scale_at, w, w_stride, f, out + r * f.stride);
        r += 4;
    }
    if (INT_ROWS > 2 && rows - r >= 2) {
        int8_block<2, V>(a + r * stride, stride, quads, scale_at, w, w_stride, f, out + r * f.stride);
        r += 2;
    }
    for (; r < rows; ++r)
        int8_block<1, V>(a + r * stride, stride, quads, scale_at, w, w_stride, f, out + r * f.stride);
}

static void begin(Finish& f, const Weights* w, ptrdiff_t first, ptrdiff_t panels, const float* bias,
                  Activation kind, float* out, ptrdiff_t out_stride) {
    f.kind = kind;
    f.out = out + first * PANEL;
    f.stride = out_stride;
    f.count = w->rows - first * PANEL;
    if (f.count > panels * PANEL) f.count = panels * PANEL;
    for (ptrdiff_t i = 0; i < TILE_PANELS * PANEL; ++i) {
        f.scales[i] = 1.0f;
        f.bias[i] = bias && i < f.count ? bias[first * PANEL + i] : 0.0f;
    }
    if (w->storage == TILES)
        for (ptrdiff_t p = 0; p < panels; ++p)
            __builtin_memcpy(f.scales + p * PANEL, w->data + (first + p) * w->panel_bytes, PANEL * sizeof(float));
}

static void linear_int8(const Weights* w, ptrdiff_t first, ptrdiff_t panels, const uint8_t* bytes, const uint8_t* a,
                        ptrdiff_t stride, ptrdiff_t rows, const float* bias, Activation kind, float* out,
                        ptrdiff_t out_stride) {
    Finish f;
    begin(f, w, first, panels, bias, kind, out, out_stride);
#if TILE_PANELS > 1
    if (panels == 2) return int8_rows<2>(a, stride, rows, w->columns, bytes, w->unpacked_bytes, f);
    if (panels == 3) return int8_rows<3>(a, stride, rows, w->columns, bytes, w->unpacked_bytes, f);
#endif
    int8_rows<1>(a, stride, rows, w->columns, bytes, w->unpacked_bytes, f);
}

// Up to VL neighbours of a dense matrix as floats; lanes beyond `count` are zero.
INLINE vf load_weights(const Weights* w, ptrdiff_t at, ptrdiff_t count) {
    if (w->storage == DENSE_F32) return load_up_to((const float*)w->data + at, count);
    uint16_t halves[VL] = {};
    __builtin_memcpy(halves, w->data + at * 2, (count < VL ? count : VL) * 2);
    return from_half(halves);
}

// Panels as floats, out[column][panel][16], for any storage. Tiles come without their scales a row.
static void widen(const Weights* w, ptrdiff_t first, ptrdiff_t panels, const float* inverse, float* out,
                  uint8_t* bytes) {
    ptrdiff_t width = panels * PANEL;
    if (w->storage == TILES) {
        unpack(w, first, panels, bytes);
        for (ptrdiff_t k = 0; k < w->columns; ++k) {
            vf factor = splat(inverse ? inverse[k] : 1.0f);
            int up = 24 - 8 * (int)(k % 4);
            for (ptrdiff_t i = 0; i < width; i += VL) {
                vi lanes;
                __builtin_memcpy(&lanes, bytes + i / PANEL * w->unpacked_bytes + k / 4 * QUAD + i % PANEL * 4,
                                 sizeof lanes);
                if (WEIGHT_OFFSET) lanes ^= splat((int32_t)0x80808080);
                lanes = (lanes << up) >> 24;
                store(out + k * width + i, __builtin_convertvector(lanes, vf) * factor);
            }
        }
        return;
    }
    for (ptrdiff_t p = 0; p < width; p += VL)
        for (ptrdiff_t c = 0; c < w->columns; c += VL) {
            vf m[VL];
            for (int i = 0; i < VL; ++i) {
                ptrdiff_t row = first * PANEL + p + i;
                m[i] = row < w->rows ? load_weights(w, row * w->columns + c, w->columns - c) : vf{};
            }
            transpose(m);
            for (int i = 0; i < VL && c + i < w->columns; ++i)
                store(out + (c + i) * width + p, inverse ? m[i] * splat(inverse[c + i]) : m[i]);
        }
}

template <int R, int V>
static void float_block(const float* x, ptrdiff_t stride, ptrdiff_t columns, const float* w, const Finish& f,
                        float* out) {
    vf acc[R][V];
    multiply<MultiplyAdd, R, V>(x, stride, w, V * VL, columns, acc);
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) acc[r][v] = fma(acc[r][v], load(f.scales + v * VL), load(f.bias + v * VL));
    finish<R, V>(f, out, acc);
}

template <int PANELS>
static void float_rows(const float* x, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t columns, const float* w,
                       const Finish& f) {
    constexpr int V = PANELS * PANEL / VL;
    ptrdiff_t r = 0;
    for (; r + FLOAT_ROWS <= rows; r += FLOAT_ROWS)
        float_block<FLOAT_ROWS, V>(x + r * stride, stride, columns, w, f, f.out + r * f.stride);
    for (; r < rows; ++r) float_block<1, V>(x + r * stride, stride, columns, w, f, f.out + r * f.stride);
}

static void linear_float(const Weights* w, ptrdiff_t first, ptrdiff_t panels, const float* x, ptrdiff_t stride,
                         ptrdiff_t rows, const float* inverse, const float* bias, Activation kind, float* out,
                         ptrdiff_t out_stride, void* scratch) {
    Finish f;
    begin(f, w, first, panels, bias, kind, out, out_stride);
    float* floats = (float*)scratch;
    ptrdiff_t padded = w->storage == TILES ? w->groups * w->group_size : w->columns;
    widen(w, first, panels, inverse, floats, (uint8_t*)(floats + panels * PANEL * padded));
#if TILE_PANELS > 1
    if (panels == 2) return float_rows<2>(x, stride, rows, w->columns, floats, f);
    if (panels == 3) return float_rows<3>(x, stride, rows, w->columns, floats, f);
#endif
    float_rows<1>(x, stride, rows, w->columns, floats, f);
}

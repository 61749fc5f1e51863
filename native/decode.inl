// What a decoder needs beside products: RMS normalisation, gated activation, rotary positions, and attention over
// a cache in pages.
//
// Included after attention.inl by each instruction set's file.

// x += update where there is one; out = x / rms(x) * gamma, row by row. Zhang and Sennrich 2019.
static void rms_norm(float* x, const float* update, const float* gamma, float epsilon, ptrdiff_t rows,
                     ptrdiff_t columns, float* out) {
    for (ptrdiff_t r = 0; r < rows; ++r, x += columns, out += columns, update += update ? columns : 0) {
        vf squares = vf{};
        each_vector(columns, [&](ptrdiff_t k, ptrdiff_t lanes) ALWAYS_INLINE {
            vf v = load_up_to(x + k, lanes);
            if (update) {
                v += load_up_to(update + k, lanes);
                store_up_to(x + k, v, lanes);
            }
            squares = fma(v, v, squares);
        });
        const vf scale = splat(1.0f / __builtin_sqrtf(sum_lanes(squares) / (float)columns + epsilon));
        each_vector(columns, [&](ptrdiff_t k, ptrdiff_t lanes) ALWAYS_INLINE {
            store_up_to(out + k, load_up_to(x + k, lanes) * scale * load_up_to(gamma + k, lanes), lanes);
        });
    }
}

// out[r] = activation(x[r, :columns]) * x[r, columns:2 * columns]. Shazeer 2020.
static void gated(const float* x, ptrdiff_t rows, ptrdiff_t columns, Activation kind, float* out) {
    for (ptrdiff_t r = 0; r < rows; ++r, x += 2 * columns, out += columns) {
        if (kind != SILU) {
            __builtin_memcpy(out, x, (size_t)columns * sizeof(float));
            activate(out, columns, kind);
        }
        each_vector(columns, [&](ptrdiff_t k, ptrdiff_t lanes) ALWAYS_INLINE {
            vf v;
            if (kind == SILU) {
                const vf gate = load_up_to(x + k, lanes);
                v = silu(gate);
            } else {
                v = load_up_to(out + k, lanes);
            }
            store_up_to(out + k, v * load_up_to(x + columns + k, lanes), lanes);
        });
    }
}

// Turns the first 2 * half values of a head, value i together with value i + half. Su et al. 2021, eq. 34.
static void rotate(float* head, const float* cosine, const float* sine, ptrdiff_t half) {
    each_vector(half, [&](ptrdiff_t k, ptrdiff_t lanes) ALWAYS_INLINE {
        const vf a = load_up_to(head + k, lanes), b = load_up_to(head + half + k, lanes);
        const vf c = load_up_to(cosine + k, lanes), s = load_up_to(sine + k, lanes);
        store_up_to(head + k, fma(a, c, -(b * s)), lanes);
        store_up_to(head + half + k, fma(b, c, a * s), lanes);
    });
}

enum { PAGE_VECTORS = PAGE / VL };

INLINE vf load_value(const float* p) { return load(p); }
INLINE vf load_value(const uint16_t* p) { return from_half(p); }

// VL numbers of a page of one head: of value d, those of the tokens from `token`; of a token, those from value d.
template <class Value>
struct FloatPage {
    static constexpr bool SCALED = false;
    const Value* values;
    ptrdiff_t size;

    FloatPage(const uint8_t* page, ptrdiff_t head_size) : values((const Value*)page), size(head_size) {}
    INLINE_MEMBER vf key(ptrdiff_t d, ptrdiff_t token) const { return load_value(values + d * PAGE + token); }
    INLINE_MEMBER vf value(ptrdiff_t token, ptrdiff_t d) const {
        return load_value(values + (PAGE + token) * size + d);
    }
};

template <int BITS>
struct IntegerPage {
    static constexpr bool SCALED = true;
    const uint8_t* codes;
    ptrdiff_t size;
    const uint16_t* scales;

    IntegerPage(const uint8_t* page, ptrdiff_t head_size)
        : codes(page), size(head_size), scales((const uint16_t*)(page + PAGE * head_size * 2 * BITS / 8)) {}
    INLINE_MEMBER vf key(ptrdiff_t d, ptrdiff_t token) const {
        if (BITS == 8) return __builtin_convertvector(from_bytes(codes + d * PAGE + token), vf);
        return nibbles(codes + d / 2 * PAGE + token, (int)(d % 2) * 4);
    }
    INLINE_MEMBER vf value(ptrdiff_t token, ptrdiff_t d) const {
        const uint8_t* row = codes + PAGE * size * BITS / 8 + token * size * BITS / 8;
        if (BITS == 8) return __builtin_convertvector(from_bytes(row + d), vf);
        return nibbles(row + d % (size / 2), d < size / 2 ? 0 : 4);
    }
    INLINE_MEMBER vf key_scale(ptrdiff_t token) const { return from_half(scales + token); }
    INLINE_MEMBER vf value_scale(ptrdiff_t token) const { return from_half(scales + PAGE + token); }

  private:
    static INLINE_MEMBER vf nibbles(const uint8_t* p, int shift) {
        return __builtin_convertvector((from_bytes(p) >> shift & 15) - 8, vf);
    }
};

struct Query {
    const float* values;
    float* out;
    int32_t position;
    const float* bias;  // of the sequence's first token, or null
};

static constexpr float LOG2_E = 1.44269504f;

// One page of one key-value head for R rows of queries; the running maximum, sum and output of each are brought
// up to date. What a row gets does not depend on the rows beside it: a page without a visible key changes nothing.
template <class Page, int R>
static void attend_page(const PagedBlock* b, const Page page, ptrdiff_t page_start, const Query (&query)[R],
                        float* largest, float* sum) {
    vf scores[R][PAGE_VECTORS];
    float weights[R][PAGE];
    // A few vectors of the page at a time, so that the sums stay in registers.
    constexpr int V = PAGE_VECTORS < 4 ? PAGE_VECTORS : 4;
    for (int start = 0; start < PAGE_VECTORS; start += V) {
        vf acc[R][V];
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) acc[r][v] = vf{};
        for (ptrdiff_t d = 0; d < b->head_size; ++d) {
            vf k[V];
            for (int v = 0; v < V; ++v) k[v] = page.key(d, (start + v) * VL);
            for (int r = 0; r < R; ++r) {
                const vf q = splat(query[r].values[d]);
                for (int v = 0; v < V; ++v) acc[r][v] = fma(q, k[v], acc[r][v]);
            }
        }
        for (int v = 0; v < V; ++v) {
            vf scale = splat(1.0f);
            if constexpr (Page::SCALED) scale = page.key_scale((start + v) * VL);
            for (int r = 0; r < R; ++r) scores[r][start + v] = Page::SCALED ? acc[r][v] * scale : acc[r][v];
        }
    }
    const float factor = b->scale * LOG2_E;
    for (int r = 0; r < R; ++r) {
        const int32_t last = query[r].position - (int32_t)page_start;
        const int32_t first = b->window > 0 ? last - (int32_t)b->window + 1 : -1;
        vf top = splat(-__builtin_inff());
        for (int v = 0; v < PAGE_VECTORS; ++v) {
            const vi at = lane_numbers() + splat(v * VL);
            const vi seen = (at <= splat(last)) & (at >= splat(first));
            scores[r][v] *= splat(factor);
            if (query[r].bias)
                scores[r][v] = fma(load(query[r].bias + page_start + v * VL), splat(LOG2_E), scores[r][v]);
            scores[r][v] = seen ? scores[r][v] : splat(-__builtin_inff());
            top = maximum(top, scores[r][v]);
        }
        const float before = largest[r], highest = max_lanes(top);
        const float now = highest > before ? highest : before;
        vf total = vf{};
        for (int v = 0; v < PAGE_VECTORS; ++v) {
            const vi at = lane_numbers() + splat(v * VL);
            const vi seen = (at <= splat(last)) & (at >= splat(first));
            const vf e = seen ? exp2_(scores[r][v] - splat(now)) : vf{};
            total += e;
            if constexpr (Page::SCALED)
                store(weights[r] + v * VL, e * page.value_scale(v * VL));
            else
                store(weights[r] + v * VL, e);
        }
        if (now > before) {
            const float shrink = before > -__builtin_inff() ? exp2_(splat(before - now))[0] : 0.0f;
            sum[r] *= shrink;
            float* out = query[r].out;
            each_vector(b->head_size, [&](ptrdiff_t d, ptrdiff_t lanes) ALWAYS_INLINE {
                store_up_to(out + d, load_up_to(out + d, lanes) * splat(shrink), lanes);
            });
        }
        largest[r] = now;
        sum[r] += sum_lanes(total);
    }
    const ptrdiff_t whole = b->head_size / VL * VL;
    for (ptrdiff_t d = 0; d < whole; d += V * VL) {
        const int count = (int)((whole - d) / VL < V ? (whole - d) / VL : V);
        vf acc[R][V];
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < count; ++v) acc[r][v] = load(query[r].out + d + v * VL);
        for (ptrdiff_t j = 0; j < PAGE; ++j) {
            vf x[V];
            for (int v = 0; v < count; ++v) x[v] = page.value(j, d + v * VL);
            for (int r = 0; r < R; ++r)
                for (int v = 0; v < count; ++v) acc[r][v] = fma(splat(weights[r][j]), x[v], acc[r][v]);
        }
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < count; ++v) store(query[r].out + d + v * VL, acc[r][v]);
    }
}

template <class Page, int R>
static void attend_rows(const PagedBlock* b, ptrdiff_t row) {
    Query query[R];
    float largest[R], sum[R];
    int32_t last = 0, first = 0x7fffffff;
    for (int r = 0; r < R; ++r) {
        const ptrdiff_t token = (row + r) / b->group, head = (row + r) % b->group;
        query[r].values = b->queries + token * b->stride + head * b->head_size;
        query[r].out = b->out + token * b->out_stride + head * b->head_size;
        query[r].position = b->positions[token];
        query[r].bias = b->bias ? b->bias + head * b->bias_stride + b->starts[token] : nullptr;
        last = query[r].position > last ? query[r].position : last;
        first = query[r].position < first ? query[r].position : first;
        const bool resumed = b->sums && b->first_page > 0;
        largest[r] = resumed ? b->sums[2 * (row + r)] : -__builtin_inff();
        sum[r] = resumed ? b->sums[2 * (row + r) + 1] : 0.0f;
        if (!resumed) __builtin_memset(query[r].out, 0, (size_t)b->head_size * sizeof(float));
    }
    first = b->window > 0 && first >= b->window ? first - (int32_t)b->window + 1 : 0;
    ptrdiff_t page_number = first / PAGE, end = last / PAGE + 1;
    if (b->sums) {
        page_number = b->first_page > page_number ? b->first_page : page_number;
        end = b->end_page > 0 && b->end_page < end ? b->end_page : end;
    }
    for (ptrdiff_t p = page_number; p < end; ++p) {
        const Page page(b->pool + b->pages[p] * b->page_stride + b->page_offset, b->head_size);
        attend_page<Page, R>(b, page, p * PAGE, query, largest, sum);
    }
    for (int r = 0; r < R; ++r) {
        if (b->sums && b->end_page > 0) {
            b->sums[2 * (row + r)] = largest[r];
            b->sums[2 * (row + r) + 1] = sum[r];
            continue;
        }
        const vf factor = splat(1.0f / sum[r]);
        each_vector(b->head_size, [&](ptrdiff_t d, ptrdiff_t lanes) ALWAYS_INLINE {
            store_up_to(query[r].out + d, load_up_to(query[r].out + d, lanes) * factor, lanes);
        });
    }
}

template <class Page>
static void attend(const PagedBlock* b) {
    ptrdiff_t r = 0;
    for (; r + PAGED_ROWS <= b->rows; r += PAGED_ROWS) attend_rows<Page, PAGED_ROWS>(b, r);
    for (; PAGED_ROWS > 2 && r + 2 <= b->rows; r += 2) attend_rows<Page, 2>(b, r);
    for (; r < b->rows; ++r) attend_rows<Page, 1>(b, r);
}

static void attend_paged(const PagedBlock* b) {
    switch (b->kind) {
        case CACHE_F32: return attend<FloatPage<float>>(b);
        case CACHE_F16: return attend<FloatPage<uint16_t>>(b);
        case CACHE_I8: return attend<IntegerPage<8>>(b);
        default: return attend<IntegerPage<4>>(b);
    }
}

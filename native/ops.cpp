#include "ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "chunks.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace ops {
namespace {

#if defined(__aarch64__)
bool has_dot_product() {
#if defined(__linux__)
    return getauxval(AT_HWCAP) & (1ul << 20);  // HWCAP_ASIMDDP
#else
    return true;  // every Apple processor that runs 64-bit macOS
#endif
}
#endif

// Room for each thread, taken here so that a lack of memory is thrown where it can be caught.
void reserve(Pool& pool, size_t bytes) {
    for (int thread = 0; thread < pool.threads(); ++thread) pool.scratch(thread, bytes);
}

template <class Value, class F>
void add_dense(const Weights& w, ptrdiff_t row, float* out, F to_float) {
    const uint8_t* values = w.data + row * w.columns * (ptrdiff_t)sizeof(Value);
    for (ptrdiff_t k = 0; k < w.columns; ++k) {
        Value value;
        std::memcpy(&value, values + k * sizeof(Value), sizeof(Value));
        out[k] += to_float(value);
    }
}

typedef uint8_t Four __attribute__((vector_size(4)));
typedef int32_t FourInts __attribute__((vector_size(16)));
typedef float FourFloats __attribute__((vector_size(16)));

// out += row `row` of a matrix in tiles; out has room for whole groups.
template <int BITS>
void add_tiled(const Weights& w, ptrdiff_t row, float* out) {
    const uint8_t* panel = w.data + row / PANEL * w.panel_bytes;
    const ptrdiff_t lane = row % PANEL;
    float scale;
    std::memcpy(&scale, panel + lane * 4, 4);
    for (ptrdiff_t g = 0; g < w.groups; ++g) {
        const float step = scale * (float)(int8_t)panel[64 + g * PANEL + lane];
        const uint8_t* planes = panel + w.codes_offset + g * w.group_size * 2 * BITS + lane * 4;
        for (ptrdiff_t quad = 0; quad < w.group_size / 4; ++quad, out += 4) {
            const uint8_t* plane = planes;
            uint32_t codes = 0;  // of four columns, a byte each
            for (int width = BITS == 8 ? 8 : 4, low = 0; width >= 1; width /= 2) {
                if (!(BITS & width)) continue;
                uint32_t packed;
                std::memcpy(&packed, plane + quad * width / 8 * 64, 4);
                const int shift = (int)(quad % (8 / width)) * width;
                codes |= (packed >> shift & 0x01010101u * ((1u << width) - 1)) << low;
                low += width;
                plane += w.group_size * 2 * width;
            }
            Four bytes;
            std::memcpy(&bytes, &codes, 4);
            const FourInts centred = __builtin_convertvector(bytes, FourInts) - (1 << (BITS - 1));
            FourFloats sum;
            std::memcpy(&sum, out, sizeof sum);
            sum += __builtin_convertvector(centred, FourFloats) * step;
            std::memcpy(out, &sum, sizeof sum);
        }
    }
}

// out += row `row` of a table; out has room for whole groups of tiles.
void add_row(const Weights& w, ptrdiff_t row, float* out) {
    if (w.storage == DENSE_F32) return add_dense<float>(w, row, out, [](float value) { return value; });
    if (w.storage == DENSE_F16) return add_dense<uint16_t>(w, row, out, half_to_float);
    switch (w.bits) {
        case 1: return add_tiled<1>(w, row, out);
        case 2: return add_tiled<2>(w, row, out);
        case 3: return add_tiled<3>(w, row, out);
        case 4: return add_tiled<4>(w, row, out);
        case 5: return add_tiled<5>(w, row, out);
        case 6: return add_tiled<6>(w, row, out);
        case 7: return add_tiled<7>(w, row, out);
        default: return add_tiled<8>(w, row, out);
    }
}

}  // namespace

const KernelTable* find_kernels(const std::string& name) {
    const bool any = name == "auto";
#if defined(__x86_64__)
    __builtin_cpu_init();
    if ((any || name == "avx512") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        if (auto* table = __builtin_cpu_supports("avx512bf16") ? kernels_avx512_bf16() : kernels_avx512())
            return table;
    // Every processor with AVX2 also converts halves (F16C), which clang has no name to ask for.
    if ((any || name == "avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        if (auto* table = kernels_avx2()) return table;
#elif defined(__aarch64__)
    if (any || name == "neon") {
        if (has_dot_product())
            if (auto* table = kernels_neon_dot()) return table;
        if (auto* table = kernels_neon()) return table;
    }
#endif
    return any || name == "portable" ? kernels_portable() : nullptr;
}

std::vector<std::string> available_kernels() {
    std::vector<std::string> names;
    for (const char* name : {"avx512", "avx2", "neon", "portable"})
        if (find_kernels(name)) names.push_back(name);
    return names;
}

Weights dense_weights(const void* data, bool half, ptrdiff_t rows, ptrdiff_t columns) {
    Weights w{};
    w.data = static_cast<const uint8_t*>(data);
    w.storage = half ? DENSE_F16 : DENSE_F32;
    w.rows = rows;
    w.columns = columns;
    return w;
}

Weights tiled_weights(const void* data, ptrdiff_t rows, ptrdiff_t columns, int bits, ptrdiff_t group_size) {
    Weights w = dense_weights(data, false, rows, columns);
    w.storage = TILES;
    w.bits = bits;
    w.group_size = group_size;
    w.groups = divide_up(columns, group_size);
    w.codes_offset = 64 + divide_up(w.groups * PANEL, 64) * 64;
    w.panel_bytes = w.codes_offset + w.groups * group_size * 2 * bits;
    w.unpacked_bytes = w.groups * group_size * PANEL + 64;  // out of step with the sets of the cache
    return w;
}

ptrdiff_t row_bytes(ptrdiff_t columns) { return divide_up(columns, 64) * 64 + ROW_TAIL; }

void quantize(Pool& pool, const KernelTable& k, const float* x, ptrdiff_t rows, ptrdiff_t columns,
              const float* inverse, uint8_t* out) {
    const ptrdiff_t stride = row_bytes(columns);
    by_rows(pool, rows, chunk_rows(columns), [&](ptrdiff_t first, ptrdiff_t count, int) {
        k.quantize_rows(x + first * columns, columns, inverse, count, columns, out + first * stride, stride);
    });
}

size_t unpacked_bytes(const Weights& w) { return (size_t)(divide_up(w.rows, PANEL) * w.unpacked_bytes); }

void unpack(Pool& pool, const KernelTable& k, const Weights& w, uint8_t* out) {
    by_rows(pool, divide_up(w.rows, PANEL), k.panels_per_tile, [&](ptrdiff_t first, ptrdiff_t panels, int) {
        k.unpack(&w, first, panels, out + first * w.unpacked_bytes);
    });
}

namespace {

// See KernelTable::linear_few. Rows beyond `rows` are the last again.
void sum_groups(const KernelTable& k, const Weights& w, const uint8_t* quantized, ptrdiff_t stride, ptrdiff_t rows,
                int32_t* out) {
    const int half = w.bits == 8 && k.weight_offset == 0 ? 0 : 1 << (w.bits - 1);
    for (ptrdiff_t r = 0; r < k.few_rows; ++r) {
        const int8_t* row = reinterpret_cast<const int8_t*>(quantized + std::min(r, rows - 1) * stride);
        for (ptrdiff_t g = 0; g < w.groups; ++g) {
            const ptrdiff_t end = std::min((g + 1) * w.group_size, w.columns);
            int32_t sum = 0;
            for (ptrdiff_t c = g * w.group_size; c < end; ++c) sum += row[c];
            *out++ = half * sum;
        }
    }
}

// At most few_rows rows: the time is that of reading the tiles once.
void linear_few(Pool& pool, const KernelTable& k, const uint8_t* quantized, ptrdiff_t stride, ptrdiff_t rows,
                const std::vector<Output>& outputs, Activation activation, int32_t* half_sums) {
    struct Part {
        const Output* output;
        const int32_t* half_sums;
        ptrdiff_t first, panels;
    };
    std::vector<Part> parts;
    ptrdiff_t all = 0;
    for (const Output& o : outputs) all += divide_up(o.weights->rows, PANEL);
    const ptrdiff_t size = std::max<ptrdiff_t>(1, all / (8 * pool.threads()));
    for (const Output& o : outputs) {
        sum_groups(k, *o.weights, quantized, stride, rows, half_sums);
        const ptrdiff_t panels = divide_up(o.weights->rows, PANEL);
        for (ptrdiff_t p = 0; p < panels; p += size) parts.push_back({&o, half_sums, p, std::min(size, panels - p)});
        half_sums += k.few_rows * o.weights->groups;
    }
    pool.run((ptrdiff_t)parts.size(), [&](ptrdiff_t chunk, int) {
        const Part& part = parts[chunk];
        k.linear_few(part.output->weights, part.first, part.panels, quantized, stride, part.half_sums, rows,
                     part.output->bias, activation, part.output->out, part.output->stride);
    });
}

}  // namespace

void linear(Pool& pool, const KernelTable& k, const float* x, ptrdiff_t rows, ptrdiff_t columns,
            const float* inverse, const std::vector<Output>& outputs, bool int8, Activation activation) {
    struct Tile {
        const Output* output;
        ptrdiff_t first, panels;
    };
    std::vector<Tile> tiles;
    ptrdiff_t width = columns;
    for (const Output& o : outputs) {
        const ptrdiff_t panels = divide_up(o.weights->rows, PANEL);
        for (ptrdiff_t p = 0; p < panels; p += k.panels_per_tile)
            tiles.push_back({&o, p, std::min(k.panels_per_tile, panels - p)});
        if (o.weights->storage == TILES) width = std::max(width, o.weights->groups * o.weights->group_size);
    }
    const ptrdiff_t stride = row_bytes(columns);
    uint8_t* quantized = nullptr;
    if (int8) {
        ptrdiff_t groups = 0;
        for (const Output& o : outputs) groups += o.weights->groups;
        const size_t sums = (size_t)(k.few_rows * groups) * sizeof(int32_t);
        uint8_t* shared = static_cast<uint8_t*>(pool.scratch(pool.threads(), sums + (size_t)(rows * stride) + 64));
        quantized = shared + (sums + 63) / 64 * 64;
        quantize(pool, k, x, rows, columns, inverse, quantized);
        if (rows <= k.few_rows)
            return linear_few(pool, k, quantized, stride, rows, outputs, activation,
                              reinterpret_cast<int32_t*>(shared));
    }
    // Where a matrix has too few tiles to keep all threads busy, rows are divided as well.
    const ptrdiff_t wanted = divide_up(4 * pool.threads(), (ptrdiff_t)tiles.size());
    const ptrdiff_t parts = pool.threads() == 1 ? 1 : std::max<ptrdiff_t>(1, std::min(wanted, rows / 64));
    const ptrdiff_t part = divide_up(rows, parts);
    reserve(pool, (size_t)(k.panels_per_tile * (PANEL * width + 64)) * (int8 ? 1 : 1 + sizeof(float)));
    pool.run((ptrdiff_t)tiles.size() * parts, [&](ptrdiff_t chunk, int thread) {
        const Tile& tile = tiles[chunk % tiles.size()];
        const Output& o = *tile.output;
        const ptrdiff_t first = chunk / (ptrdiff_t)tiles.size() * part, count = std::min(part, rows - first);
        if (count <= 0) return;
        void* scratch = pool.scratch(thread, 0);
        if (int8) {
            const uint8_t* unpacked = static_cast<uint8_t*>(scratch);
            if (o.unpacked)
                unpacked = o.unpacked + tile.first * o.weights->unpacked_bytes;
            else
                k.unpack(o.weights, tile.first, tile.panels, static_cast<uint8_t*>(scratch));
            k.linear_int8(o.weights, tile.first, tile.panels, unpacked, quantized + first * stride, stride, count,
                          o.bias, activation, o.out + first * o.stride, o.stride);
        } else
            k.linear_float(o.weights, tile.first, tile.panels, x + first * columns, columns, count, inverse,
                           o.bias, activation, o.out + first * o.stride, o.stride, scratch);
    });
}

void layer_norm(Pool& pool, const KernelTable& k, const float* x, const float* residual, const float* gamma,
                const float* beta, float epsilon, ptrdiff_t rows, ptrdiff_t columns, float* out) {
    by_rows(pool, rows, chunk_rows(columns), [&](ptrdiff_t first, ptrdiff_t count, int) {
        const ptrdiff_t at = first * columns;
        k.layer_norm(x + at, residual ? residual + at : nullptr, gamma, beta, epsilon, count, columns, out + at);
    });
}

void activate(Pool& pool, const KernelTable& k, float* x, ptrdiff_t rows, ptrdiff_t columns, Activation kind) {
    by_rows(pool, rows, chunk_rows(columns), [&](ptrdiff_t first, ptrdiff_t count, int) {
        for (ptrdiff_t r = first; r < first + count; ++r) k.activate(x + r * columns, columns, kind);
    });
}

void attention(Pool& pool, const KernelTable& k, const float* queries, const float* keys, const float* values,
               ptrdiff_t stride, const int64_t* starts, ptrdiff_t sequences, ptrdiff_t heads,
               ptrdiff_t head_size, float scale, bool half, float* out) {
    ptrdiff_t longest = 0;
    for (ptrdiff_t s = 0; s < sequences; ++s) longest = std::max<ptrdiff_t>(longest, starts[s + 1] - starts[s]);
    const ptrdiff_t wanted = divide_up(4 * pool.threads(), std::max<ptrdiff_t>(1, sequences * heads));
    const ptrdiff_t parts = pool.threads() == 1 ? 1 : std::max<ptrdiff_t>(1, std::min(wanted, longest / 32));
    reserve(pool, (size_t)k.attention_scratch(longest, head_size));
    pool.run(sequences * heads * parts, [&](ptrdiff_t chunk, int thread) {
        const ptrdiff_t s = chunk / (heads * parts), head = chunk / parts % heads;
        const ptrdiff_t length = starts[s + 1] - starts[s], part = divide_up(length, parts);
        const ptrdiff_t first = chunk % parts * part, count = std::min(part, length - first);
        if (count <= 0) return;
        const ptrdiff_t column = head * head_size, at = starts[s] * stride + column;
        const ptrdiff_t out_stride = heads * head_size;
        AttentionBlock block{queries + at + first * stride,
                             keys + at,
                             values + at,
                             stride,
                             out + (starts[s] + first) * out_stride + column,
                             out_stride,
                             count,
                             length,
                             head_size,
                             scale};
        (half ? k.attention_half : k.attention)(&block, pool.scratch(thread, 0));
    });
}

void rms_norm(Pool& pool, const KernelTable& k, float* x, const float* update, const float* gamma, float epsilon,
              ptrdiff_t rows, ptrdiff_t columns, float* out) {
    by_rows(pool, rows, chunk_rows(columns), [&](ptrdiff_t first, ptrdiff_t count, int) {
        const ptrdiff_t at = first * columns;
        k.rms_norm(x + at, update ? update + at : nullptr, gamma, epsilon, count, columns, out + at);
    });
}

void gated(Pool& pool, const KernelTable& k, const float* x, ptrdiff_t rows, ptrdiff_t columns, Activation kind,
           float* out) {
    by_rows(pool, rows, chunk_rows(columns), [&](ptrdiff_t first, ptrdiff_t count, int) {
        k.gated(x + first * 2 * columns, count, columns, kind, out + first * columns);
    });
}

void embed(Pool& pool, const KernelTable& k, const std::vector<Table>& tables, ptrdiff_t count,
           const float* gamma, const float* beta, float epsilon, float* out) {
    const ptrdiff_t columns = tables.front().weights->columns;
    ptrdiff_t width = columns;
    for (const Table& table : tables)
        if (table.weights->storage == TILES)
            width = std::max(width, table.weights->groups * table.weights->group_size);
    reserve(pool, (size_t)width * sizeof(float));
    by_rows(pool, count, chunk_rows(columns), [&](ptrdiff_t first, ptrdiff_t rows, int thread) {
        float* sum = static_cast<float*>(pool.scratch(thread, 0));
        for (ptrdiff_t i = first; i < first + rows; ++i) {
            std::fill(sum, sum + width, 0.0f);
            for (const Table& table : tables)
                if (table.rows[i] >= 0) add_row(*table.weights, table.rows[i], sum);
            std::copy(sum, sum + columns, out + i * columns);
        }
        float* block = out + first * columns;
        if (gamma) k.layer_norm(block, nullptr, gamma, beta, epsilon, rows, columns, block);
    });
}

}  // namespace ops

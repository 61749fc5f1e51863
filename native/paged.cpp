// The cache of one layer: writing to it, attending to it, moving what tokens left in it.
//
// Knows pages and branches of a tree. Knows nothing of which pages are whose.
#include "ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "chunks.h"

namespace ops {
namespace {

// Bytes of one head of one page.
ptrdiff_t head_bytes(const Cache& c) {
    constexpr ptrdiff_t BITS[] = {32, 16, 8, 4};
    return 2 * PAGE * (c.head_size * BITS[c.kind] / 8 + (c.kind >= CACHE_I8 ? 2 : 0));
}

template <class Value, class F>
void write_floats(uint8_t* head, ptrdiff_t size, ptrdiff_t slot, const float* keys, const float* values, F from_float) {
    Value* to = reinterpret_cast<Value*>(head);
    for (ptrdiff_t d = 0; d < size; ++d) to[d * PAGE + slot] = from_float(keys[d]);
    to += PAGE * size + slot * size;
    for (ptrdiff_t d = 0; d < size; ++d) to[d] = from_float(values[d]);
}

// put(d, code) for each value; the scale as a half. What is not finite gets a scale that makes NaN of it.
template <class F>
uint16_t quantise_head(const float* x, ptrdiff_t size, int most, F put) {
    float top = 0.0f;
    bool finite = true;
    for (ptrdiff_t d = 0; d < size; ++d) {
        top = std::max(top, std::fabs(x[d]));
        finite = finite && std::isfinite(x[d]);
    }
    const uint16_t half = finite ? float_to_half(top / (float)most) : 0x7e00;
    const float scale = half_to_float(half);
    const bool usable = scale > 0.0f && std::isfinite(scale);
    for (ptrdiff_t d = 0; d < size; ++d) {
        const float code = usable ? std::nearbyint(x[d] / scale) : 0.0f;
        put(d, (int)std::min((float)most, std::max((float)-most, code)));
    }
    return half;
}

void write_integers(uint8_t* head, ptrdiff_t size, ptrdiff_t slot, bool four, const float* keys, const float* values) {
    uint8_t* row = head + (PAGE + slot) * (four ? size / 2 : size);
    uint16_t scales[2];
    auto nibble = [](uint8_t& byte, bool high, int code) {
        byte = (uint8_t)(high ? (byte & 15) | (code + 8) << 4 : (byte & 0xf0) | (code + 8));
    };
    if (four) {
        scales[0] = quantise_head(keys, size, 7, [&](ptrdiff_t d, int code) { nibble(head[d / 2 * PAGE + slot], d % 2, code); });
        scales[1] = quantise_head(values, size, 7, [&](ptrdiff_t d, int code) { nibble(row[d % (size / 2)], d >= size / 2, code); });
    } else {
        scales[0] = quantise_head(keys, size, 127, [&](ptrdiff_t d, int code) { head[d * PAGE + slot] = (uint8_t)code; });
        scales[1] = quantise_head(values, size, 127, [&](ptrdiff_t d, int code) { row[d] = (uint8_t)code; });
    }
    uint8_t* to = head + 2 * PAGE * (four ? size / 2 : size) + slot * 2;
    std::memcpy(to, &scales[0], 2);
    std::memcpy(to + 2 * PAGE, &scales[1], 2);
}

void write_token(const Cache& c, ptrdiff_t page, ptrdiff_t slot, const float* keys, const float* values) {
    const ptrdiff_t size = c.head_size;
    for (ptrdiff_t h = 0; h < c.heads; ++h, keys += size, values += size) {
        uint8_t* head = c.pool + (page * c.heads + h) * head_bytes(c);
        if (c.kind == CACHE_F16)
            write_floats<uint16_t>(head, size, slot, keys, values, float_to_half);
        else if (c.kind == CACHE_F32)
            write_floats<float>(head, size, slot, keys, values, [](float value) { return value; });
        else
            write_integers(head, size, slot, c.kind == CACHE_I4, keys, values);
    }
}

// What one token left in one head, as it is stored.
void copy_token(const Cache& c, ptrdiff_t head, ptrdiff_t from, ptrdiff_t to) {
    constexpr ptrdiff_t BITS[] = {32, 16, 8, 4};
    const ptrdiff_t bits = BITS[c.kind], row = c.head_size * bits / 8, unit = std::max<ptrdiff_t>(1, bits / 8);
    const uint8_t* source = c.pool + (from / PAGE * c.heads + head) * head_bytes(c);
    uint8_t* target = c.pool + (to / PAGE * c.heads + head) * head_bytes(c);
    from %= PAGE;
    to %= PAGE;
    for (ptrdiff_t at = 0; at < row * PAGE; at += unit * PAGE)
        std::memcpy(target + at + to * unit, source + at + from * unit, unit);
    std::memcpy(target + (PAGE + to) * row, source + (PAGE + from) * row, row);
    if (c.kind >= CACHE_I8)
        for (ptrdiff_t scales = 2 * PAGE * row; scales <= 2 * PAGE * row + 2 * PAGE; scales += 2 * PAGE)
            std::memcpy(target + scales + to * 2, source + scales + from * 2, 2);
}

}  // namespace

void remember(Pool& pool, const KernelTable& k, const Joint& joint, const Cache& cache, const float* query_gamma,
              const float* key_gamma, float epsilon, const float* cosine, const float* sine, ptrdiff_t half) {
    const ptrdiff_t size = cache.head_size, width = joint.width(cache);
    by_rows(pool, joint.tokens, chunk_rows(width), [&](ptrdiff_t first, ptrdiff_t count, int) {
        for (ptrdiff_t t = first; t < first + count; ++t) {
            float* row = joint.rows + t * width;
            float* keys = row + joint.heads * size;
            if (query_gamma) k.rms_norm(row, nullptr, query_gamma, epsilon, joint.heads, size, row);
            if (key_gamma) k.rms_norm(keys, nullptr, key_gamma, epsilon, cache.heads, size, keys);
            const ptrdiff_t position = joint.positions[t];
            for (ptrdiff_t h = 0; h < joint.heads + cache.heads; ++h)
                k.rotate(row + h * size, cosine + position * half, sine + position * half, half);
            const ptrdiff_t page = cache.tables[joint.sequences[t] * cache.table_columns + position / PAGE];
            const bool kept = joint.slots && joint.slots[t] >= 0;
            const ptrdiff_t slot = kept ? joint.slots[t] : page * PAGE + position % PAGE;
            const float* values = keys + cache.heads * size;
            write_token(cache, slot / PAGE, slot % PAGE, keys, values);
        }
    });
}

void attend_paged(Pool& pool, const KernelTable& k, const Joint& joint, const Cache& cache, ptrdiff_t window,
                  float scale, const Bias& bias, float* out) {
    struct Part {
        ptrdiff_t first, tokens, head, whole;  // whole: pages before the first branch's, or -1 without branches
    };
    std::vector<Part> parts;
    // Tokens of a sequence share the pages that are read; so many that a part is worth handing out.
    constexpr ptrdiff_t TOGETHER = 32;
    for (ptrdiff_t t = 0; t < joint.tokens;) {
        ptrdiff_t end = t, whole = -1;
        for (; end < joint.tokens && joint.sequences[end] == joint.sequences[t]; ++end)
            if (joint.slots && joint.slots[end] >= 0)
                whole = whole < 0 ? joint.positions[end] / PAGE : std::min<ptrdiff_t>(whole, joint.positions[end] / PAGE);
        if (whole < 0) end = std::min(end, t + TOGETHER);  // branches come in order, on one thread
        for (ptrdiff_t h = 0; h < cache.heads; ++h) parts.push_back({t, end - t, h, whole});
        t = end;
    }
    const ptrdiff_t size = cache.head_size, width = joint.width(cache), group = joint.heads / cache.heads;
    pool.run((ptrdiff_t)parts.size(), [&](ptrdiff_t chunk, int) {
        const Part& part = parts[chunk];
        const ptrdiff_t column = part.head * group * size;
        PagedBlock block{};
        block.queries = joint.rows + part.first * width + column;
        block.stride = width;
        block.positions = joint.positions + part.first;
        block.group = group;
        block.rows = part.tokens * group;
        block.pool = cache.pool;
        block.kind = cache.kind;
        block.pages = cache.tables + joint.sequences[part.first] * cache.table_columns;
        block.page_stride = cache.heads * head_bytes(cache);
        block.page_offset = part.head * head_bytes(cache);
        block.out = out + part.first * joint.heads * size + column;
        block.out_stride = joint.heads * size;
        block.head_size = size;
        block.window = window;
        block.scale = scale;
        if (bias.values) {
            block.bias = bias.values + part.head * group * bias.columns;
            block.bias_stride = bias.columns;
            block.starts = bias.starts + part.first;
        }
        if (part.whole < 0) return k.attend_paged(&block);
        const std::unique_ptr<float[]> sums(new float[(size_t)(2 * block.rows)]);
        block.sums = sums.get();
        if (part.whole > 0) {  // what all branches share is read once
            block.end_page = part.whole;
            k.attend_paged(&block);
            block.end_page = 0;
            block.first_page = part.whole;
        }
        block.rows = group;
        for (ptrdiff_t t = part.first; t < part.first + part.tokens; ++t) {
            if (joint.slots[t] >= 0) {
                const ptrdiff_t position = joint.positions[t];
                copy_token(cache, part.head, joint.slots[t], block.pages[position / PAGE] * PAGE + position % PAGE);
            }
            k.attend_paged(&block);
            block.queries += width;
            block.out += block.out_stride;
            block.sums += 2 * group;
            ++block.positions;
            if (block.starts) ++block.starts;
        }
    });
}

void move_tokens(const Cache& cache, const int32_t* from, const int32_t* to, ptrdiff_t tokens) {
    for (ptrdiff_t t = 0; t < tokens; ++t)
        for (ptrdiff_t h = 0; h < cache.heads; ++h) copy_token(cache, h, from[t], to[t]);
}

}  // namespace ops

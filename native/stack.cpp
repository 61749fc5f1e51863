#include "stack.h"

#include <algorithm>

namespace ops {
namespace {

constexpr ptrdiff_t FEED_ROWS = 128;  // of a feed-forward layer at a time, so that what it widens stays small

}  // namespace

ptrdiff_t Product::rows() const {
    ptrdiff_t rows = 0;
    for (const Output& output : outputs) rows += output.weights->rows;
    return rows;
}

void multiply(Pool& pool, const KernelTable& k, const Product& product, const float* x, ptrdiff_t rows,
              ptrdiff_t columns, float* out, Activation activation) {
    std::vector<Output> outputs = product.outputs;
    const ptrdiff_t stride = product.rows();
    for (Output& output : outputs) {
        output.out = out;
        output.stride = stride;
        out += output.weights->rows;
    }
    linear(pool, k, x, rows, columns, product.inverse, outputs, product.int8, activation);
}

void run_blocks(Pool& pool, const KernelTable& k, const Stack& stack, const Step& step, float scale, float* states,
                float* update) {
    const ptrdiff_t tokens = step.tokens, hidden = stack.hidden, mixed_width = stack.heads * stack.head_size;
    const ptrdiff_t joint_width = mixed_width + 2 * stack.cache_heads * stack.head_size;
    ptrdiff_t widest = 0;
    for (const Block& block : stack.blocks) widest = std::max(widest, block.widen.rows());
    const ptrdiff_t feed_rows = std::min(tokens, FEED_ROWS);
    const Pool::Room normal(pool, tokens * hidden), joint(pool, tokens * joint_width);
    const Pool::Room mixed(pool, tokens * mixed_width), wide(pool, feed_rows * widest);
    const Pool::Room gate(pool, feed_rows * widest / 2);
    bool first = true;
    for (const Block& block : stack.blocks) {
        rms_norm(pool, k, states, first ? nullptr : update, block.attention_gamma, stack.epsilon, tokens, hidden,
                 normal.get());
        first = false;
        multiply(pool, k, block.joint, normal.get(), tokens, hidden, joint.get());
        const Cache cache{block.pool, stack.kind, stack.cache_heads, stack.head_size, step.tables, step.table_columns};
        const Joint rows{joint.get(), tokens, stack.heads, step.sequences, step.positions, step.slots};
        remember(pool, k, rows, cache, block.query_gamma, block.key_gamma, stack.epsilon, step.cosine, step.sine,
                 step.half);
        attend_paged(pool, k, rows, cache, block.window, scale, {}, mixed.get());
        multiply(pool, k, block.output, mixed.get(), tokens, mixed_width, update);
        rms_norm(pool, k, states, update, block.feed_gamma, stack.epsilon, tokens, hidden, normal.get());
        const ptrdiff_t width = block.widen.rows() / 2;
        for (ptrdiff_t row = 0; row < tokens; row += feed_rows) {
            const ptrdiff_t count = std::min(feed_rows, tokens - row);
            multiply(pool, k, block.widen, normal.get() + row * hidden, count, hidden, wide.get());
            gated(pool, k, wide.get(), count, width, stack.gate, gate.get());
            multiply(pool, k, block.narrow, gate.get(), count, width, update + row * hidden);
        }
    }
}

}  // namespace ops

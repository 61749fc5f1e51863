// All layers of a decoder in one call, so that nothing waits for Python between them.
//
// Knows the order of the kernels in a pre-norm block with grouped queries and a gated feed-forward layer. The same
// kernels on the same numbers as when they are called one by one, so the same bits.
#pragma once
#include <vector>

#include "ops.h"

namespace ops {

// Matrices that read the same input.
struct Product {
    std::vector<Output> outputs;  // `out` and `stride` are filled in for each call
    const float* inverse;
    bool int8;

    ptrdiff_t rows() const;
};

struct Block {
    const float *attention_gamma, *query_gamma, *key_gamma, *feed_gamma;  // of queries and keys: null for none
    Product joint, output, widen, narrow;  // widen: gate and up, side by side
    uint8_t* pool;                         // of this layer's cache
    ptrdiff_t window;
};

struct Stack {
    std::vector<Block> blocks;
    ptrdiff_t hidden, heads, cache_heads, head_size;
    CacheKind kind;
    float epsilon;
    Activation gate;
};

// Where tokens belong, see Joint and Cache; cosine, sine: (positions, half).
struct Step {
    ptrdiff_t tokens;
    const int32_t *sequences, *positions, *tables;
    ptrdiff_t table_columns;
    const float *cosine, *sine;
    ptrdiff_t half;
    const int32_t* slots;
};

// x (rows of `columns`) through a product into rows of product.rows().
void multiply(Pool& pool, const KernelTable& k, const Product& product, const float* x, ptrdiff_t rows,
              ptrdiff_t columns, float* out, Activation activation = NONE);

// states (tokens, hidden): what enters the first block, then what enters the last one's feed-forward layer with that
// of all before it added. update (tokens, hidden): what the last block's feed-forward layer gives, not added yet.
void run_blocks(Pool& pool, const KernelTable& k, const Stack& stack, const Step& step, float scale, float* states,
                float* update);

}  // namespace ops

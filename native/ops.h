// The kernels on whole arrays: each divides its work into chunks and has a pool's threads do them.
//
// Knows the kernel tables and the pool. Knows nothing of Python; sizes were checked by the caller.
// A row's result does not depend on which rows are beside it, on the chunks or on the threads: chunks divide
// rows and outputs, never a sum.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace ops {

// The table of an instruction set by name, or of the best that this processor has ("auto"); null if absent.
const KernelTable* find_kernels(const std::string& name);

// What this processor offers, best first.
std::vector<std::string> available_kernels();

Weights dense_weights(const void* data, bool half, ptrdiff_t rows, ptrdiff_t columns);
Weights tiled_weights(const void* data, ptrdiff_t rows, ptrdiff_t columns, int bits, ptrdiff_t group_size);

// Bytes of a row of `columns` activations in int8.
ptrdiff_t row_bytes(ptrdiff_t columns);

// The tiles of a matrix as the int8 product reads them, unpacked_bytes(weights) of them at `out`.
size_t unpacked_bytes(const Weights& weights);
void unpack(Pool& pool, const KernelTable& k, const Weights& weights, uint8_t* out);

struct Output {
    const Weights* weights;
    const float* bias;  // null: none
    float* out;
    ptrdiff_t stride;
    const uint8_t* unpacked;  // null: each call unpacks what it reads
};

// out = activation(x @ weights.T + bias) for each of `outputs`; x: rows of `columns`. inverse may be null.
// int8: activations are quantised row by row first; else weights are widened to float.
void linear(Pool& pool, const KernelTable& k, const float* x, ptrdiff_t rows, ptrdiff_t columns,
            const float* inverse, const std::vector<Output>& outputs, bool int8, Activation activation);

void quantize(Pool& pool, const KernelTable& k, const float* x, ptrdiff_t rows, ptrdiff_t columns,
              const float* inverse, uint8_t* out);

void layer_norm(Pool& pool, const KernelTable& k, const float* x, const float* residual, const float* gamma,
                const float* beta, float epsilon, ptrdiff_t rows, ptrdiff_t columns, float* out);

void activate(Pool& pool, const KernelTable& k, float* x, ptrdiff_t rows, ptrdiff_t columns, Activation kind);

// Self-attention of each sequence with itself. Queries, keys and values: (tokens, heads * head_size) with rows
// `stride` apart; sequence s holds tokens [starts[s], starts[s + 1]). half: values may be rounded to bfloat16.
void attention(Pool& pool, const KernelTable& k, const float* queries, const float* keys, const float* values,
               ptrdiff_t stride, const int64_t* starts, ptrdiff_t sequences, ptrdiff_t heads,
               ptrdiff_t head_size, float scale, bool half, float* out);

void rms_norm(Pool& pool, const KernelTable& k, float* x, const float* update, const float* gamma, float epsilon,
              ptrdiff_t rows, ptrdiff_t columns, float* out);

// x: rows of 2 * columns, out: rows of columns.
void gated(Pool& pool, const KernelTable& k, const float* x, ptrdiff_t rows, ptrdiff_t columns, Activation kind,
           float* out);

// The cache of one layer. A page holds for each head keys and values, see PagedBlock.
struct Cache {
    uint8_t* pool;
    CacheKind kind;
    ptrdiff_t heads, head_size;
    const int32_t* tables;  // (sequences, table_columns): the pages of each sequence
    ptrdiff_t table_columns;
};

// One joint row a token: queries of `heads` heads, then keys and values of cache.heads.
struct Joint {
    float* rows;
    ptrdiff_t tokens, heads;
    const int32_t *sequences, *positions;  // of each token
    // Null, or for each token where its keys and values are kept (page * PAGE + place in it) rather than at its
    // position; negative: at its position. Such tokens are branches of a tree: each comes after what it follows, and
    // all that follow it before the next branch at its position.
    const int32_t* slots;

    ptrdiff_t width(const Cache& cache) const { return (heads + 2 * cache.heads) * cache.head_size; }
};

// Queries and keys are normalised (query_gamma, key_gamma of head_size, or null) and turned (cosine, sine:
// (positions, half); 2 * half values of a head turn), and keys and values written to the cache.
void remember(Pool& pool, const KernelTable& k, const Joint& joint, const Cache& cache, const float* query_gamma,
              const float* key_gamma, float epsilon, const float* cosine, const float* sine, ptrdiff_t half);

// Added to scores, see PagedBlock; values may be null.
struct Bias {
    const float* values;  // (heads, columns)
    ptrdiff_t columns;
    const int32_t* starts;  // of each token
};

// out (tokens, heads * head_size) = attention of each token to its sequence's cache. Tokens of one sequence lie
// one after another. What is kept in slots is copied to its position before its token attends, so that a token finds
// what it follows, and every number where it would lie without branches; the last branch's stay there.
void attend_paged(Pool& pool, const KernelTable& k, const Joint& joint, const Cache& cache, ptrdiff_t window,
                  float scale, const Bias& bias, float* out);

// What tokens left in slots of a cache (page * PAGE + place in it), to others.
void move_tokens(const Cache& cache, const int32_t* from, const int32_t* to, ptrdiff_t tokens);

struct Table {
    const Weights* weights;
    const int32_t* rows;
};

// out[i] = sum over tables of table[rows[i]]; gamma null: no normalisation.
void embed(Pool& pool, const KernelTable& k, const std::vector<Table>& tables, ptrdiff_t count,
           const float* gamma, const float* beta, float epsilon, float* out);

}  // namespace ops

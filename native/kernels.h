// What one instruction set offers: the work of one chunk of each kernel, on one thread.
//
// Knows the stored layout of weights (numerics/tiles.py). Knows nothing of threads, Python or models.
// Plain data and function pointers only: each instruction set is compiled with its own options, and an inline
// function shared by two of them could be linked from the wrong one.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "conv.h"
#include "planes.h"

enum { PAGE = 64 };   // tokens of a cache that are stored together
enum { PANEL = 16 };  // rows of a weight matrix that are stored together

enum Activation { NONE = 0, GELU_ERF = 1, GELU_TANH = 2, RELU = 3, TANH = 4, SILU = 5 };

// What a cache keeps keys and values as. Integers have one scale (a half) for each token of a head.
enum CacheKind { CACHE_F32 = 0, CACHE_F16 = 1, CACHE_I8 = 2, CACHE_I4 = 3 };

enum Storage { DENSE_F32 = 0, DENSE_F16 = 1, TILES = 2 };

// A weight matrix as stored: rows = outputs, columns = inputs.
struct Weights {
    const uint8_t* data;
    Storage storage;
    ptrdiff_t rows, columns;
    int bits;                // of tiles
    ptrdiff_t group_size;    // of tiles
    ptrdiff_t groups;        // of tiles
    ptrdiff_t panel_bytes;   // of tiles
    ptrdiff_t codes_offset;  // of tiles: where the codes begin in a panel
    ptrdiff_t unpacked_bytes;  // of tiles: from one panel to the next once they are unpacked to int8
};

// Rows of activations in int8: `columns` values, zeros up to a multiple of 64, then 64 bytes that hold the
// row's float scale (0) and the int32 sum of its values (4). The odd tail also keeps rows out of step with
// the cache's sets when `columns` is a power of two.
enum { ROW_TAIL = 64, ROW_SCALE = 0, ROW_SUM = 4 };

// One block of queries of one head of one sequence. Rows are `stride` floats apart; keys and values hold
// `length` rows, queries and out hold `rows`.
struct AttentionBlock {
    const float *queries, *keys, *values;
    ptrdiff_t stride;
    float* out;
    ptrdiff_t out_stride;
    ptrdiff_t rows, length, head_size;
    float scale;
};

// Queries of one key-value head of one sequence, over a cache in pages. A page of a head holds its keys, (head_size,
// PAGE), and then its values, (PAGE, head_size); head_size is a multiple of 16. Integers are followed by the scales of
// keys and of values, PAGE halves each. Of 4 bits a byte holds two, offset by 8, the first in the low bits: keys of
// values 2 d and 2 d + 1, values d and d + head_size / 2 (head_size is a multiple of 32). Row r is head r % group of
// token r / group, which attends to the tokens up to its position, or to the last `window` of them where that is
// positive. Heads of a token lie side by side, tokens `stride` apart. Where there is a bias, that of a row's head is
// `bias_stride` floats after the one before, and its value starts[token] + j is added to the score of the token at j; it
// is read to the end of a page. Where there is `sums`, only the pages from first_page to before end_page are attended to
// (0: to the last): two floats a row, and what is in `out`, go on from there where first_page is positive, and are left
// unfinished where end_page is.
struct PagedBlock {
    const float* queries;
    ptrdiff_t stride;
    const int32_t* positions;  // of the tokens
    ptrdiff_t group, rows;
    const uint8_t* pool;
    CacheKind kind;
    const int32_t* pages;                 // of this sequence, in order
    ptrdiff_t page_stride, page_offset;  // in bytes: between pages, and of this head in one
    float* out;
    ptrdiff_t out_stride;
    ptrdiff_t head_size, window;
    float scale;
    const float* bias;  // may be null
    ptrdiff_t bias_stride;
    const int32_t* starts;  // of the tokens
    float* sums;  // may be null
    ptrdiff_t first_page, end_page;
};

struct KernelTable {
    const char* name;
    ptrdiff_t panels_per_tile;  // panels that a call of linear_* takes at most

    // out: rows of row_bytes(columns). inverse (columns) may be null. A row with a value that is not finite
    // gets the scale NaN and zeros.
    void (*quantize_rows)(const float* x, ptrdiff_t stride, const float* inverse, ptrdiff_t rows,
                          ptrdiff_t columns, uint8_t* out, ptrdiff_t out_stride);
    // Panels of tiles as the bytes that linear_int8 multiplies, unpacked_bytes a panel.
    void (*unpack)(const Weights* weights, ptrdiff_t first_panel, ptrdiff_t panels, uint8_t* out);
    // Outputs first_panel * 16 .. of `weights`, for all rows. unpacked: those panels. out points at column 0 of
    // the matrix.
    void (*linear_int8)(const Weights* weights, ptrdiff_t first_panel, ptrdiff_t panels, const uint8_t* unpacked,
                        const uint8_t* quantized, ptrdiff_t quantized_stride, ptrdiff_t rows, const float* bias,
                        Activation activation, float* out, ptrdiff_t out_stride);
    // The same for at most few_rows rows, from the tiles as they are stored. half_sums: for each of these rows and
    // each group, the sum of its activations times 2^(bits - 1), or 0 for 8 bits where weight_offset is 0;
    // few_rows * groups of them, those of the last row again for rows that are not there.
    ptrdiff_t few_rows;
    int weight_offset;
    void (*linear_few)(const Weights* weights, ptrdiff_t first_panel, ptrdiff_t panels, const uint8_t* quantized,
                       ptrdiff_t quantized_stride, const int32_t* half_sums, ptrdiff_t rows, const float* bias,
                       Activation activation, float* out, ptrdiff_t out_stride);
    void (*linear_float)(const Weights* weights, ptrdiff_t first_panel, ptrdiff_t panels, const float* x,
                         ptrdiff_t stride, ptrdiff_t rows, const float* inverse, const float* bias,
                         Activation activation, float* out, ptrdiff_t out_stride, void* scratch);
    // x may be out; residual may be null.
    void (*layer_norm)(const float* x, const float* residual, const float* gamma, const float* beta,
                       float epsilon, ptrdiff_t rows, ptrdiff_t columns, float* out);
    void (*activate)(float* x, ptrdiff_t count, Activation activation);
    void (*attention)(const AttentionBlock* block, void* scratch);
    // The same, or where that is faster with products of values rounded to bfloat16.
    void (*attention_half)(const AttentionBlock* block, void* scratch);
    void (*rms_norm)(float* x, const float* update, const float* gamma, float epsilon, ptrdiff_t rows,
                     ptrdiff_t columns, float* out);
    void (*gated)(const float* x, ptrdiff_t rows, ptrdiff_t columns, Activation activation, float* out);
    void (*rotate)(float* head, const float* cosine, const float* sine, ptrdiff_t half);
    void (*attend_paged)(const PagedBlock* block);
    ptrdiff_t (*attention_scratch)(ptrdiff_t length, ptrdiff_t head_size);  // bytes
    const ConvTable* convolution;
    const PlaneTable* planes;
};

// The value of an IEEE half, also infinite, NaN or subnormal.
float half_to_float(uint16_t half);

// The nearest half, ties to even; beyond its range infinite.
uint16_t float_to_half(float value);

// Null where this build or this processor has not got it.
const KernelTable* kernels_avx512_bf16(void);
const KernelTable* kernels_avx512(void);
const KernelTable* kernels_avx2(void);
const KernelTable* kernels_neon_dot(void);
const KernelTable* kernels_neon(void);
const KernelTable* kernels_portable(void);

// Nested matrices, one bit plane after another: what one instruction set offers for them, and the same on whole arrays.
//
// Knows the stored layout of planes (numerics/nested.py) and of the tiles that are their base. Sums are integers, so
// that the order in which planes are added, rows beside a row, chunks and threads change nothing.
#pragma once
#include <stddef.h>
#include <stdint.h>

struct Weights;
struct KernelTable;
class Pool;

// A plane of signs with a multiplier a row and group.
struct Signs {
    const uint8_t* data;
    ptrdiff_t rows, columns, group_size, groups, panel_bytes;
};

// Sums of up to few_rows rows: acc[r][first * 16 ..] gets the products of panels [first, first + panels). Rows of acc lie
// `acc_stride` apart and have room for whole panels. a: rows in int8. sums: of each row and group of activations, rows one
// after another; at most few_rows rows are read.
struct PlaneTable {
    void (*add_base)(const Weights* weights, ptrdiff_t first, ptrdiff_t panels, const uint8_t* a, ptrdiff_t stride,
                     const int32_t* sums, ptrdiff_t rows, int shift, int32_t* acc, ptrdiff_t acc_stride);
    void (*add_signs)(const Signs* signs, ptrdiff_t first, ptrdiff_t panels, const uint8_t* a, ptrdiff_t stride,
                      const int32_t* sums, ptrdiff_t rows, int32_t* acc, ptrdiff_t acc_stride);
};

namespace ops {

Signs signs(const void* data, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t group_size);

// Rows of activations as int8 (row_bytes(columns) each), and the sums of their groups.
void quantize_grouped(Pool& pool, const KernelTable& k, const float* x, ptrdiff_t rows, ptrdiff_t columns,
                      ptrdiff_t group_size, uint8_t* out, int32_t* sums);

void add_base(Pool& pool, const KernelTable& k, const Weights& weights, const uint8_t* a, const int32_t* sums,
              ptrdiff_t rows, int shift, int32_t* acc, ptrdiff_t acc_stride);

void add_signs(Pool& pool, const KernelTable& k, const Signs& signs, const uint8_t* a, const int32_t* sums,
               ptrdiff_t rows, int32_t* acc, ptrdiff_t acc_stride);

// out[r][c] = acc[r][c] * (scale of row r * scale of output c / 2**shift).
void finish_planes(const Weights& weights, const uint8_t* a, ptrdiff_t rows, int shift, const int32_t* acc,
                   ptrdiff_t acc_stride, float* out, ptrdiff_t out_stride);

}  // namespace ops

// How the work of a kernel is divided into chunks of rows.
#pragma once
#include <stddef.h>

#include <algorithm>

#include "pool.h"

namespace ops {

inline ptrdiff_t divide_up(ptrdiff_t a, ptrdiff_t b) { return (a + b - 1) / b; }

// f(first, count, thread) over [0, rows) in chunks of at most `size`.
template <class F>
void by_rows(Pool& pool, ptrdiff_t rows, ptrdiff_t size, F f) {
    pool.run(divide_up(rows, size), [&](ptrdiff_t chunk, int thread) {
        f(chunk * size, std::min(size, rows - chunk * size), thread);
    });
}

// Rows a chunk, so that a chunk is worth handing out.
inline ptrdiff_t chunk_rows(ptrdiff_t columns) { return std::max<ptrdiff_t>(1, 4096 / std::max<ptrdiff_t>(columns, 1)); }

}  // namespace ops

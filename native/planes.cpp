#include "planes.h"

#include <algorithm>
#include <cstring>

#include "ops.h"

namespace ops {
namespace {

constexpr ptrdiff_t WORTH = 32 << 10;  // bytes of weights that are worth another thread

// add(first panel, panels, first row, rows), panels divided among threads and rows in parts of few_rows.
template <class Add>
void by_panels(Pool& pool, const KernelTable& k, ptrdiff_t outputs, ptrdiff_t panel_bytes, ptrdiff_t rows, Add add) {
    const ptrdiff_t panels = (outputs + PANEL - 1) / PANEL, size = std::max<ptrdiff_t>(1, WORTH / panel_bytes);
    pool.run((panels + size - 1) / size, [&](ptrdiff_t chunk, int) {
        const ptrdiff_t first = chunk * size, count = std::min(size, panels - first);
        for (ptrdiff_t row = 0; row < rows; row += k.few_rows) add(first, count, row, std::min(k.few_rows, rows - row));
    });
}

}  // namespace

Signs signs(const void* data, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t group_size) {
    const ptrdiff_t groups = (columns + group_size - 1) / group_size;
    return {static_cast<const uint8_t*>(data), rows, columns, group_size, groups, groups * (PANEL + 2 * group_size)};
}

void quantize_grouped(Pool& pool, const KernelTable& k, const float* x, ptrdiff_t rows, ptrdiff_t columns,
                      ptrdiff_t group_size, uint8_t* out, int32_t* sums) {
    quantize(pool, k, x, rows, columns, nullptr, out);
    for (ptrdiff_t r = 0; r < rows; ++r)
        for (ptrdiff_t first = 0; first < columns; first += group_size) {
            const uint8_t* a = out + r * row_bytes(columns);
            int32_t sum = 0;
            for (ptrdiff_t c = first; c < std::min(first + group_size, columns); ++c) sum += (int8_t)a[c];
            *sums++ = sum;
        }
}

void add_base(Pool& pool, const KernelTable& k, const Weights& w, const uint8_t* a, const int32_t* sums, ptrdiff_t rows,
              int shift, int32_t* acc, ptrdiff_t acc_stride) {
    const ptrdiff_t stride = row_bytes(w.columns);
    by_panels(pool, k, w.rows, w.panel_bytes, rows, [&](ptrdiff_t first, ptrdiff_t panels, ptrdiff_t row, ptrdiff_t count) {
        k.planes->add_base(&w, first, panels, a + row * stride, stride, sums + row * w.groups, count, shift,
                           acc + row * acc_stride, acc_stride);
    });
}

void add_signs(Pool& pool, const KernelTable& k, const Signs& w, const uint8_t* a, const int32_t* sums, ptrdiff_t rows,
               int32_t* acc, ptrdiff_t acc_stride) {
    const ptrdiff_t stride = row_bytes(w.columns);
    by_panels(pool, k, w.rows, w.panel_bytes, rows, [&](ptrdiff_t first, ptrdiff_t panels, ptrdiff_t row, ptrdiff_t count) {
        k.planes->add_signs(&w, first, panels, a + row * stride, stride, sums + row * w.groups, count,
                            acc + row * acc_stride, acc_stride);
    });
}

void finish_planes(const Weights& w, const uint8_t* a, ptrdiff_t rows, int shift, const int32_t* acc,
                   ptrdiff_t acc_stride, float* out, ptrdiff_t out_stride) {
    const ptrdiff_t stride = row_bytes(w.columns), scale_at = stride - ROW_TAIL + ROW_SCALE;
    const float unit = 1.0f / (float)(1 << shift);
    for (ptrdiff_t r = 0; r < rows; ++r) {
        float t;
        std::memcpy(&t, a + r * stride + scale_at, 4);
        for (ptrdiff_t first = 0; first < w.rows; first += PANEL) {
            float scales[PANEL];
            std::memcpy(scales, w.data + first / PANEL * w.panel_bytes, sizeof scales);
            const ptrdiff_t count = std::min<ptrdiff_t>(PANEL, w.rows - first);
            for (ptrdiff_t i = 0; i < count; ++i)
                out[r * out_stride + first + i] = (float)acc[r * acc_stride + first + i] * (t * (scales[i] * unit));
        }
    }
}

}  // namespace ops

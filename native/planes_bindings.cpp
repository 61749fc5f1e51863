// Python bindings of nested products: `ondevice.kernels.planes` checks every argument before it calls these.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <stdexcept>

#include "ops.h"

namespace nb = nanobind;

namespace {

template <class T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
using Bytes = Array<const uint8_t>;

struct Planes {
    Pool pool;
    const KernelTable* kernels;

    Planes(int threads, const std::string& name) : pool(threads), kernels(ops::find_kernels(name)) {
        if (!kernels) throw std::invalid_argument("this processor has not got " + name);
    }
};

}  // namespace

void bind_planes(nb::module_& m) {
    nb::class_<Planes>(m, "Planes")
        .def(nb::init<int, const std::string&>())
        .def("quantize",
             [](Planes& p, const Array<const float>& x, ptrdiff_t group_size, const Array<uint8_t>& out,
                const Array<int32_t>& sums) {
                 nb::gil_scoped_release released;
                 Pool::Turn turn(p.pool);
                 ops::quantize_grouped(p.pool, *p.kernels, x.data(), (ptrdiff_t)x.shape(0), (ptrdiff_t)x.shape(1),
                                       group_size, out.data(), sums.data());
             })
        .def("add_base",
             [](Planes& p, const Bytes& stored, ptrdiff_t rows, ptrdiff_t columns, int bits, ptrdiff_t group_size,
                int shift, const Bytes& a, const Array<const int32_t>& sums, ptrdiff_t tokens, const Array<int32_t>& acc) {
                 const Weights w = ops::tiled_weights(stored.data(), rows, columns, bits, group_size);
                 nb::gil_scoped_release released;
                 Pool::Turn turn(p.pool);
                 ops::add_base(p.pool, *p.kernels, w, a.data(), sums.data(), tokens, shift, acc.data(),
                               (ptrdiff_t)acc.shape(1));
             })
        .def("add_signs",
             [](Planes& p, const Bytes& stored, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t group_size, const Bytes& a,
                const Array<const int32_t>& sums, ptrdiff_t tokens, const Array<int32_t>& acc) {
                 const Signs w = ops::signs(stored.data(), rows, columns, group_size);
                 nb::gil_scoped_release released;
                 Pool::Turn turn(p.pool);
                 ops::add_signs(p.pool, *p.kernels, w, a.data(), sums.data(), tokens, acc.data(),
                                (ptrdiff_t)acc.shape(1));
             })
        .def("finish", [](Planes&, const Bytes& stored, ptrdiff_t rows, ptrdiff_t columns, int bits,
                          ptrdiff_t group_size, int shift, const Bytes& a, const Array<const int32_t>& acc,
                          const Array<float>& out) {
            const Weights w = ops::tiled_weights(stored.data(), rows, columns, bits, group_size);
            nb::gil_scoped_release released;
            ops::finish_planes(w, a.data(), (ptrdiff_t)out.shape(0), shift, acc.data(), (ptrdiff_t)acc.shape(1), out.data(),
                               (ptrdiff_t)out.shape(1));
        });
}

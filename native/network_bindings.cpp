// Python bindings of prepared networks: `ondevice.kernels.network` checks every argument before it calls these.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <optional>
#include <stdexcept>

#include "network.h"
#include "ops.h"

namespace nb = nanobind;

namespace {

template <class T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
using Floats = Array<const float>;

struct Network {
    ops::Network steps;
    nb::list keep;  // weights and biases that the steps point into

    Network(int threads, const KernelTable* kernels) : steps(threads, kernels) {}
};

template <class T>
T fields(const Array<const int64_t>& values) {
    T made;
    if (values.size() * sizeof(int64_t) != sizeof made) throw std::invalid_argument("a wrong number of fields");
    std::memcpy(&made, values.data(), sizeof made);
    return made;
}

}  // namespace

void bind_network(nb::module_& m) {
    nb::class_<Network>(m, "Network")
        .def("__init__",
             [](Network* self, int threads, const std::string& name) {
                 const KernelTable* kernels = ops::find_kernels(name);
                 if (!kernels) throw std::invalid_argument("this processor has not got " + name);
                 new (self) Network(threads, kernels);
             })
        .def_prop_ro("lanes", [](const Network& n) { return n.steps.table().lanes; })
        .def_prop_ro("rows", [](const Network& n) { return n.steps.table().rows; })
        .def(
            "convolution",
            [](Network& n, const Array<const int64_t>& shape, const Floats& weights, const std::optional<Floats>& bias,
               float low, float high) {
                n.steps.convolution(fields<ops::Convolution>(shape), weights.data(), bias ? bias->data() : nullptr, low,
                                    high);
                n.keep.append(nb::cast(weights));
                if (bias) n.keep.append(nb::cast(*bias));
            },
            nb::arg(), nb::arg(), nb::arg().none(), nb::arg(), nb::arg())
        .def("pool",
             [](Network& n, const Array<const int64_t>& window, int64_t planes, int64_t input, int64_t output,
                bool average, bool count_padding) {
                 n.steps.pool(fields<Window>(window), planes, input, output, average, count_padding);
             })
        .def("add", [](Network& n, int64_t a, int64_t b, int64_t output, int64_t floats, float low,
                       float high) { n.steps.add(a, b, output, floats, low, high); })
        .def("copy", [](Network& n, int64_t input, int64_t output, int64_t images, int64_t floats, int64_t in_stride,
                        int64_t out_stride) { n.steps.copy(input, output, images, floats, in_stride, out_stride); })
        .def("layout", [](Network& n, int64_t input, int64_t output, int64_t images, int64_t channels, int64_t pixels,
                          bool to_blocks) { n.steps.layout(input, output, images, channels, pixels, to_blocks); })
        .def_prop_ro("count", [](const Network& n) { return n.steps.count(); })
        .def("run", [](Network& n, const Array<float>& arena, size_t first, size_t last) {
            nb::gil_scoped_release released;
            n.steps.run(arena.data(), first, last);
        });
}

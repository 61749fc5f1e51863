// Python bindings of the compiled core: `ondevice.kernels` checks every argument before it calls these.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <stdexcept>

#include "stack.h"

namespace nb = nanobind;

void bind_io(nb::module_& m);  // io_bindings.cpp
void bind_network(nb::module_& m);  // network_bindings.cpp
void bind_planes(nb::module_& m);  // planes_bindings.cpp

namespace {

template <class T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
using Floats = Array<const float>;
using MaybeFloats = std::optional<Floats>;
using Bytes = Array<const uint8_t>;

const float* data(const MaybeFloats& array) { return array ? array->data() : nullptr; }

struct Matrix {
    Weights weights;
    Bytes keep;  // the memory that `weights` points into
};

struct Linear {
    ops::Product product;
    nb::list keep;
    std::vector<std::shared_ptr<uint8_t[]>> unpacked;
    const KernelTable* unpacked_for = nullptr;
};

Linear make_linear(const std::vector<const Matrix*>& matrices, const std::vector<MaybeFloats>& biases,
                   const MaybeFloats& inverse, bool int8) {
    Linear made{{{}, data(inverse), int8}, nb::list(), {}, nullptr};
    for (size_t i = 0; i < matrices.size(); ++i) {
        made.product.outputs.push_back({&matrices[i]->weights, data(biases[i]), nullptr, 0, nullptr});
        made.keep.append(nb::cast(matrices[i]));
        if (biases[i]) made.keep.append(nb::cast(*biases[i]));
    }
    if (inverse) made.keep.append(nb::cast(*inverse));
    return made;
}

struct Core {
    Pool pool;
    const KernelTable* kernels;

    Core(int threads, const std::string& name) : pool(threads), kernels(ops::find_kernels(name)) {
        if (!kernels) throw std::invalid_argument("this processor has not got " + name);
    }
};

// What was unpacked for another instruction set is left out.
ops::Product product_for(const Core& core, const Linear& layer) {
    ops::Product product = layer.product;
    if (layer.unpacked_for != core.kernels)
        for (ops::Output& output : product.outputs) output.unpacked = nullptr;
    return product;
}

void linear(Core& core, const Floats& x, const Linear& layer, int activation, const Array<float>& out) {
    const ops::Product product = product_for(core, layer);
    nb::gil_scoped_release released;
    Pool::Turn turn(core.pool);
    ops::multiply(core.pool, *core.kernels, product, x.data(), (ptrdiff_t)x.shape(0), (ptrdiff_t)x.shape(1),
                  out.data(), (Activation)activation);
}

void unpack(Core& core, Linear& layer) {
    if (layer.unpacked_for) return;
    layer.unpacked_for = core.kernels;
    Pool::Turn turn(core.pool);
    for (ops::Output& output : layer.product.outputs) {
        layer.unpacked.emplace_back(new uint8_t[ops::unpacked_bytes(*output.weights) + 64]);
        uint8_t* aligned = layer.unpacked.back().get();
        aligned += -(uintptr_t)aligned % 64;
        ops::unpack(core.pool, *core.kernels, *output.weights, aligned);
        output.unpacked = aligned;
    }
}

void quantize(Core& core, const Floats& x, const MaybeFloats& inverse, const Array<uint8_t>& out) {
    nb::gil_scoped_release released;
    Pool::Turn turn(core.pool);
    ops::quantize(core.pool, *core.kernels, x.data(), (ptrdiff_t)x.shape(0), (ptrdiff_t)x.shape(1), data(inverse),
             out.data());
}

void layer_norm(Core& core, const Floats& x, const MaybeFloats& residual, const Floats& gamma, const Floats& beta,
                float epsilon, const Array<float>& out) {
    nb::gil_scoped_release released;
    Pool::Turn turn(core.pool);
    ops::layer_norm(core.pool, *core.kernels, x.data(), data(residual), gamma.data(), beta.data(), epsilon,
               (ptrdiff_t)x.shape(0), (ptrdiff_t)x.shape(1), out.data());
}

void activate(Core& core, const Array<float>& x, int kind) {
    nb::gil_scoped_release released;
    Pool::Turn turn(core.pool);
    ops::activate(core.pool, *core.kernels, x.data(), (ptrdiff_t)x.shape(0), (ptrdiff_t)x.shape(1), (Activation)kind);
}

void attention(Core& core, const Floats& qkv, const Array<const int64_t>& starts, int heads, float scale, bool half,
               const Array<float>& out) {
    const ptrdiff_t stride = (ptrdiff_t)qkv.shape(1), width = stride / 3;
    nb::gil_scoped_release released;
    Pool::Turn turn(core.pool);
    ops::attention(core.pool, *core.kernels, qkv.data(), qkv.data() + width, qkv.data() + 2 * width, stride,
              starts.data(), (ptrdiff_t)starts.shape(0) - 1, heads, width / heads, scale, half, out.data());
}

void embed(Core& core, const std::vector<const Matrix*>& matrices, const Array<const int32_t>& rows,
           const MaybeFloats& gamma, const MaybeFloats& beta, float epsilon, const Array<float>& out) {
    std::vector<ops::Table> tables;
    for (size_t i = 0; i < matrices.size(); ++i)
        tables.push_back({&matrices[i]->weights, rows.data() + i * rows.shape(1)});
    nb::gil_scoped_release released;
    Pool::Turn turn(core.pool);
    ops::embed(core.pool, *core.kernels, tables, (ptrdiff_t)rows.shape(1), data(gamma), data(beta), epsilon,
          out.data());
}

void rms_norm(Core& core, const Array<float>& x, const MaybeFloats& update, const Floats& gamma, float epsilon,
              const Array<float>& out) {
    nb::gil_scoped_release released;
    Pool::Turn turn(core.pool);
    ops::rms_norm(core.pool, *core.kernels, x.data(), data(update), gamma.data(), epsilon, (ptrdiff_t)x.shape(0),
                  (ptrdiff_t)x.shape(1), out.data());
}

void gated(Core& core, const Floats& x, int kind, const Array<float>& out) {
    nb::gil_scoped_release released;
    Pool::Turn turn(core.pool);
    ops::gated(core.pool, *core.kernels, x.data(), (ptrdiff_t)out.shape(0), (ptrdiff_t)out.shape(1), (Activation)kind,
               out.data());
}

using Places = Array<const int32_t>;

const int32_t* data(const std::optional<Places>& array) { return array ? array->data() : nullptr; }

// pool: (pages, heads, bytes of a head in a page).
ops::Cache cache_of(const Array<uint8_t>& pool, int kind, int heads, int head_size, const Places& tables) {
    return {pool.data(), (CacheKind)kind, heads, head_size, tables.data(), (ptrdiff_t)tables.shape(1)};
}

void remember(Core& core, const Array<float>& joint, int heads, const Places& sequences, const Places& positions,
              const Array<uint8_t>& pool, int kind, int cache_heads, int head_size, const Places& tables,
              const MaybeFloats& query_gamma, const MaybeFloats& key_gamma, float epsilon,
              const Floats& cosine, const Floats& sine, const std::optional<Places>& slots) {
    const ops::Cache cache = cache_of(pool, kind, cache_heads, head_size, tables);
    const ops::Joint rows{joint.data(), (ptrdiff_t)joint.shape(0), heads, sequences.data(), positions.data(), data(slots)};
    nb::gil_scoped_release released;
    Pool::Turn turn(core.pool);
    ops::remember(core.pool, *core.kernels, rows, cache, data(query_gamma), data(key_gamma), epsilon, cosine.data(),
                  sine.data(), (ptrdiff_t)cosine.shape(1));
}

void attend(Core& core, const Array<float>& joint, int heads, const Places& sequences, const Places& positions,
            const Array<uint8_t>& pool, int kind, int cache_heads, int head_size,
            const Places& tables, ptrdiff_t window, float scale, const Array<float>& out, const MaybeFloats& bias,
            const std::optional<Places>& starts, const std::optional<Places>& slots) {
    const ops::Cache cache = cache_of(pool, kind, cache_heads, head_size, tables);
    const ops::Joint rows{joint.data(), (ptrdiff_t)joint.shape(0), heads, sequences.data(), positions.data(), data(slots)};
    const ops::Bias added{data(bias), bias ? (ptrdiff_t)bias->shape(1) : 0, data(starts)};
    nb::gil_scoped_release released;
    Pool::Turn turn(core.pool);
    ops::attend_paged(core.pool, *core.kernels, rows, cache, window, scale, added, out.data());
}

// pools: of all layers.
void move_tokens(const std::vector<Array<uint8_t>>& pools, int kind, int cache_heads, int head_size,
                 const Places& from, const Places& to) {
    for (const Array<uint8_t>& pool : pools)
        ops::move_tokens({pool.data(), (CacheKind)kind, cache_heads, head_size, nullptr, 0}, from.data(), to.data(),
                         (ptrdiff_t)from.shape(0));
}

// The layers of a decoder that can run in one call.
struct Stack {
    ops::Stack layers;
    nb::list keep;
};

void add_block(Stack& stack, const Core& core, const Floats& attention_gamma, const MaybeFloats& query_gamma,
               const MaybeFloats& key_gamma, const Floats& feed_gamma, const Linear& joint, const Linear& output,
               const Linear& widen, const Linear& narrow, const Array<uint8_t>& pool, ptrdiff_t window) {
    stack.layers.blocks.push_back({attention_gamma.data(), data(query_gamma), data(key_gamma), feed_gamma.data(),
                                   product_for(core, joint), product_for(core, output), product_for(core, widen),
                                   product_for(core, narrow), pool.data(), window});
    for (const Floats& each : {attention_gamma, feed_gamma}) stack.keep.append(nb::cast(each));
    for (const MaybeFloats& each : {query_gamma, key_gamma})
        if (each) stack.keep.append(nb::cast(*each));
    for (const Linear* each : {&joint, &output, &widen, &narrow}) stack.keep.append(nb::cast(each));
    stack.keep.append(nb::cast(pool));
}

void run_blocks(Core& core, const Stack& stack, const Places& sequences, const Places& positions, const Places& tables,
                const Floats& cosine, const Floats& sine, float scale,
                const Array<float>& states, const Array<float>& update, const std::optional<Places>& slots) {
    const ops::Step step{(ptrdiff_t)states.shape(0), sequences.data(), positions.data(), tables.data(),
                         (ptrdiff_t)tables.shape(1), cosine.data(), sine.data(), (ptrdiff_t)cosine.shape(1),
                         data(slots)};
    nb::gil_scoped_release released;
    Pool::Turn turn(core.pool);
    ops::run_blocks(core.pool, *core.kernels, stack.layers, step, scale, states.data(), update.data());
}

}  // namespace

NB_MODULE(_core, m) {
    nb::set_leak_warnings(false);  // a session that lives until the interpreter ends is no fault
    m.def("available", &ops::available_kernels);
    m.def("move_tokens", &move_tokens);
    nb::class_<Matrix>(m, "Matrix")
        .def_static(
            "dense",
            [](const Bytes& bytes, bool half, ptrdiff_t rows, ptrdiff_t columns) {
                return Matrix{ops::dense_weights(bytes.data(), half, rows, columns), bytes};
            })
        .def_static("tiles", [](const Bytes& bytes, ptrdiff_t rows, ptrdiff_t columns, int bits, ptrdiff_t group) {
            return Matrix{ops::tiled_weights(bytes.data(), rows, columns, bits, group), bytes};
        });
    nb::class_<Linear>(m, "Linear")
        .def_static("make", &make_linear, nb::arg(), nb::arg(), nb::arg().none(), nb::arg());
    nb::class_<Stack>(m, "Stack")
        .def_static("make",
                    [](ptrdiff_t hidden, ptrdiff_t heads, ptrdiff_t cache_heads, ptrdiff_t head_size, int kind,
                       float epsilon, int gate) {
                        return Stack{{{}, hidden, heads, cache_heads, head_size, (CacheKind)kind, epsilon,
                                      (Activation)gate}, nb::list()};
                    })
        .def("add", &add_block, nb::arg(), nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg(),
             nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg());
    nb::class_<Core>(m, "Core")
        .def(nb::init<int, const std::string&>())
        .def_prop_ro("name", [](const Core& core) { return core.kernels->name; })
        .def("most_bytes", [](Core& core) { return core.pool.most_bytes(); })
        .def("linear", &linear)
        .def("unpack", &unpack)
        .def("quantize", &quantize)
        .def("layer_norm", &layer_norm)
        .def("activate", &activate)
        .def("attention", &attention)
        .def("rms_norm", &rms_norm, nb::arg(), nb::arg().none(), nb::arg(), nb::arg(), nb::arg())
        .def("gated", &gated)
        .def("remember", &remember, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
             nb::arg(), nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg(), nb::arg(),
             nb::arg() = nb::none())
        .def("attend", &attend, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
             nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg() = nb::none(), nb::arg() = nb::none(),
             nb::arg() = nb::none())
        .def("run_blocks", &run_blocks, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
             nb::arg(), nb::arg(), nb::arg() = nb::none())
        .def("embed", &embed);
    bind_io(m);
    bind_network(m);
    bind_planes(m);
}

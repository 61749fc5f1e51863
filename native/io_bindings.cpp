// Python bindings of the reader: `ondevice.runtime.io` checks every argument before it calls these.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <memory>
#include <system_error>
#include <tuple>
#include <unordered_map>

#include "io.h"

namespace nb = nanobind;

namespace {

using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// A reader and the memory that it reads into, kept until each read is over.
struct Reader {
    std::unique_ptr<io::Reader> reader;
    std::unordered_map<uint64_t, Bytes> keep;

    explicit Reader(int threads) : reader(new io::Reader(threads)) {}
    ~Reader() {
        nb::gil_scoped_release released;
        reader.reset();
    }
};

}  // namespace

void bind_io(nb::module_& m) {
    nb::class_<Reader>(m, "Reader")
        .def(nb::init<int>())
        .def("open",
             [](Reader& self, const std::string& path, bool direct) {
                 try {
                     return self.reader->open(path, direct);
                 } catch (const std::system_error& problem) {
                     errno = problem.code().value();
                     PyErr_SetFromErrnoWithFilename(PyExc_OSError, path.c_str());
                     throw nb::python_error();
                 }
             })
        .def("submit",
             [](Reader& self, int file, int64_t offset, const Bytes& out) {
                 const uint64_t number = self.reader->submit(file, offset, (int64_t)out.shape(0), out.data());
                 self.keep.emplace(number, out);
                 return number;
             })
        .def("wait", [](Reader& self, uint64_t number) {
            io::Outcome outcome;
            {
                nb::gil_scoped_release released;
                outcome = self.reader->wait(number);
            }
            self.keep.erase(number);
            return std::make_tuple(outcome.error, outcome.got, outcome.started, outcome.ended, outcome.direct);
        });
}

// Python bindings of the compiled core.
#include <nanobind/nanobind.h>

NB_MODULE(_core, m) { m.def("version", [] { return 1; }); }

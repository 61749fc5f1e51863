// Vector types of VL floats, included inside the anonymous namespace of each instruction set's file.
typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef uint8_t vb __attribute__((vector_size(VB)));
typedef uint16_t vh __attribute__((vector_size(VB)));
typedef int16_t vw __attribute__((vector_size(VB)));
typedef uint32_t vu __attribute__((vector_size(4 * VL)));

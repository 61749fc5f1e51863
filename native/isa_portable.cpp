// Any processor: the compiler's vectors of four lanes, lowered to whatever there is.
#include "kernels.h"

float half_to_float(uint16_t half) {
    uint32_t bits = (uint32_t)(half & 0x7fff) << 13;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    value *= 0x1p112f;  // rebias the exponent; subnormals come out normal
    __builtin_memcpy(&bits, &value, 4);
    if ((half & 0x7c00) == 0x7c00) bits |= 0x7f800000;
    bits |= (uint32_t)(half & 0x8000) << 16;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

uint16_t float_to_half(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    const uint32_t sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (bits >= 0x477ff000) return (uint16_t)(sign | 0x7c00);  // rounds to 65536 or more
    if (bits < 0x38800000) {                                   // a subnormal half: let the processor round
        float small;
        __builtin_memcpy(&small, &bits, 4);
        small += 0.5f;  // the unit of the last place of 0.5 is 2^-24, a subnormal's step
        __builtin_memcpy(&bits, &small, 4);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0xc8000fff + (bits >> 13 & 1);
    return (uint16_t)(sign | bits >> 13);
}

#define VL 4
#define VB 16
#define TILE_PANELS 1
#define INT_ROWS 2
#define PAGED_ROWS 2
#define FEW_ROWS 4
#define FLOAT_ROWS 2
#define FLOAT_VECTORS 4
#define WEIGHT_OFFSET 0

namespace {
#include "types.inl"

static inline vf fma(vf a, vf b, vf c) { return a * b + c; }

static inline vi nearest(vf v) {
    vi out;
    for (int i = 0; i < VL; ++i) out[i] = (int32_t)__builtin_rintf(v[i]);
    return out;
}

static inline vf maximum(vf a, vf b) { return a > b ? a : b; }
static inline vi maximum(vi a, vi b) { return a > b ? a : b; }
static inline vf minimum(vf a, vf b) { return a < b ? a : b; }
static inline vf from_half(const uint16_t* p) {
    vf out;
    for (int i = 0; i < VL; ++i) out[i] = half_to_float(p[i]);
    return out;
}

static inline vi from_bytes(const uint8_t* p) { return vi{(int8_t)p[0], (int8_t)p[1], (int8_t)p[2], (int8_t)p[3]}; }
static inline void to_bytes(uint8_t* p, vi v) {
    for (int i = 0; i < VL; ++i) p[i] = (uint8_t)v[i];
}

static inline vf zip_low(vf a, vf b) { return vf{a[0], b[0], a[1], b[1]}; }
static inline vf zip_high(vf a, vf b) { return vf{a[2], b[2], a[3], b[3]}; }

static inline vb multiply_bytes(vb a, vb b) { return a * b; }

// Even and odd bytes as 16-bit numbers; two products of at most 128 * 127 fit 16 bits together.
static inline vi dot(vi acc, vb weights, vi activations) {
    vw even = ((vw)((vh)weights << 8) >> 8) * ((vw)((vh)activations << 8) >> 8);
    vi pairs = (vi)(even + ((vw)weights >> 8) * ((vw)activations >> 8));
    return acc + ((vi)((vu)pairs << 16) >> 16) + (pairs >> 16);
}

#include "vector.inl"
#include "linear.inl"
#include "few.inl"
#include "rows.inl"
#include "attention.inl"
#include "decode.inl"
#include "table.inl"
}  // namespace

const KernelTable* kernels_portable() {
    static const KernelTable kernels = table("portable");
    return &kernels;
}

// 64-bit ARM. Included by isa_neon.cpp and isa_neon_dot.cpp, which differ in `dot`.
#include <arm_neon.h>

#define VL 4
#define VB 16
#define TILE_PANELS 1
#define INT_ROWS 4
#define PAGED_ROWS 4
#define FEW_ROWS 4
#define FLOAT_ROWS 6
#define FLOAT_VECTORS 4
#define WEIGHT_OFFSET 0

namespace {
#include "types.inl"

static inline vf fma(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
static inline vi nearest(vf v) { return (vi)vcvtnq_s32_f32((float32x4_t)v); }
static inline vf maximum(vf a, vf b) { return a > b ? a : b; }
static inline vi maximum(vi a, vi b) { return a > b ? a : b; }
static inline vf minimum(vf a, vf b) { return a < b ? a : b; }
static inline vf from_half(const uint16_t* p) { return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }

static inline vi from_bytes(const uint8_t* p) { return vi{(int8_t)p[0], (int8_t)p[1], (int8_t)p[2], (int8_t)p[3]}; }
static inline void to_bytes(uint8_t* p, vi v) {
    for (int i = 0; i < VL; ++i) p[i] = (uint8_t)v[i];
}

static inline vf zip_low(vf a, vf b) { return (vf)vzip1q_f32((float32x4_t)a, (float32x4_t)b); }
static inline vf zip_high(vf a, vf b) { return (vf)vzip2q_f32((float32x4_t)a, (float32x4_t)b); }

static inline vb multiply_bytes(vb a, vb b) { return a * b; }

static inline vi dot(vi acc, vb weights, vi activations) {
#ifdef __ARM_FEATURE_DOTPROD
    return (vi)vdotq_s32((int32x4_t)acc, (int8x16_t)weights, (int8x16_t)activations);
#else
    int8x16_t w = (int8x16_t)weights, a = (int8x16_t)activations;
    int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(a)));
    int32x4_t high = vpaddlq_s16(vmull_high_s8(w, a));
    return (vi)vaddq_s32((int32x4_t)acc, vpaddq_s32(low, high));
#endif
}

#include "vector.inl"
#include "linear.inl"
#include "few.inl"
#include "rows.inl"
#include "attention.inl"
#include "decode.inl"
#include "table.inl"
}  // namespace

// AVX-512 with VNNI (Ice Lake, Zen 4 and later).
#include <math.h>

#include "kernels.h"
#if defined(__AVX512VNNI__)
#include <immintrin.h>

#define VL 16
#define VB 64
#define TILE_PANELS 3
#define INT_ROWS 8
#define PAGED_ROWS 4
#define FEW_ROWS 8
#define FLOAT_ROWS 8
#define FLOAT_VECTORS 3
#define WEIGHT_OFFSET 128
#define GELU_BY_TABLE

namespace {
#include "types.inl"

static inline vf fma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
static inline vi nearest(vf v) { return (vi)_mm512_cvtps_epi32((__m512)v); }
static inline vf maximum(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
static inline vi maximum(vi a, vi b) { return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b); }
static inline vf minimum(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
static inline vf from_half(const uint16_t* p) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }

static inline vi from_bytes(const uint8_t* p) { return (vi)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }
static inline void to_bytes(uint8_t* p, vi v) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8((__m512i)v)); }

static inline vf lookup(vf low, vf high, vi index) {
    return (vf)_mm512_permutex2var_ps((__m512)low, (__m512i)index, (__m512)high);
}

static inline vf zip_low(vf a, vf b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
static inline vf zip_high(vf a, vf b) {
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// There is no product of bytes: 16-bit products give the even bytes and, with those masked, the odd ones.
static inline vb multiply_bytes(vb a, vb b) {
    vh odd = (vh)a & (uint16_t)0xff00;
    return (vb)(((vh)a * (vh)b & (uint16_t)0x00ff) | odd * (vh)b);
}

// The intrinsic makes g++ 12 spill the accumulators (2.5 times slower); this keeps them in registers.
static inline __attribute__((always_inline)) vi dot(vi acc, vb weights, vi activations) {
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(weights), "v"(activations));
    return acc;
}

struct Unaligned {
    int32_t four;
} __attribute__((packed, may_alias));
#define DOT_READS_MEMORY
static inline __attribute__((always_inline)) vi dot(vi acc, vb weights, const uint8_t* activations) {
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(weights), "m"(*(const Unaligned*)activations));
    return acc;
}

#include "vector.inl"
#include "linear.inl"
#include "few.inl"
#include "rows.inl"
#include "attention.inl"
#include "decode.inl"
#include "attention_bf16.inl"
#include "table.inl"
}  // namespace

const KernelTable* kernels_avx512() {
    static const KernelTable kernels = table("avx512");
    return &kernels;
}

const KernelTable* kernels_avx512_bf16() {
    static const KernelTable kernels = table("avx512", attention_half);
    return &kernels;
}
#else
const KernelTable* kernels_avx512_bf16() { return nullptr; }
const KernelTable* kernels_avx512() { return nullptr; }
#endif

// AVX2 with FMA and F16C (Haswell, Zen and later), without VNNI.
#include "kernels.h"
#if defined(__AVX2__)
#include <immintrin.h>

#define VL 8
#define VB 32
#define TILE_PANELS 1
#define INT_ROWS 4
#define PAGED_ROWS 2
#define FEW_ROWS 4
#define FLOAT_ROWS 6
#define FLOAT_VECTORS 2
#define WEIGHT_OFFSET 0

namespace {
#include "types.inl"

static inline vf fma(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
static inline vi nearest(vf v) { return (vi)_mm256_cvtps_epi32((__m256)v); }
static inline vf maximum(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
static inline vi maximum(vi a, vi b) { return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b); }
static inline vf minimum(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
static inline vf from_half(const uint16_t* p) { return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }

static inline vi from_bytes(const uint8_t* p) { return (vi)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
static inline void to_bytes(uint8_t* p, vi v) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
    _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(words, words));
}

static inline vf zip_low(vf a, vf b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
static inline vf zip_high(vf a, vf b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }

static inline vb multiply_bytes(vb a, vb b) {
    vh odd = (vh)a & (uint16_t)0xff00;
    return (vb)(((vh)a * (vh)b & (uint16_t)0x00ff) | odd * (vh)b);
}

// |w| as unsigned bytes times a with w's sign: activations stay within [-127, 127], so a pair of products is
// at most 2 * 128 * 127 and never saturates the 16 bits of vpmaddubsw.
static inline vi dot(vi acc, vb weights, vi activations) {
    __m256i size = _mm256_abs_epi8((__m256i)weights);
    __m256i signed_ = _mm256_sign_epi8((__m256i)activations, (__m256i)weights);
    __m256i pairs = _mm256_maddubs_epi16(size, signed_);
    return acc + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

#include "vector.inl"
#include "linear.inl"
#include "few.inl"
#include "rows.inl"
#include "attention.inl"
#include "decode.inl"
#include "table.inl"
}  // namespace

const KernelTable* kernels_avx2() {
    static const KernelTable kernels = table("avx2");
    return &kernels;
}
#else
const KernelTable* kernels_avx2() { return nullptr; }
#endif

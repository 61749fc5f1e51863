// 64-bit ARM with the dot product instructions (Raspberry Pi 5, phones since 2018, Apple).
#include "kernels.h"
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include "isa_neon.inl"
const KernelTable* kernels_neon_dot() {
    static const KernelTable kernels = table("neon");
    return &kernels;
}
#else
const KernelTable* kernels_neon_dot() { return nullptr; }
#endif

// 64-bit ARM without the dot product instructions (Raspberry Pi 4).
#include "kernels.h"
#if defined(__aarch64__)
#include "isa_neon.inl"
const KernelTable* kernels_neon() {
    static const KernelTable kernels = table("neon");
    return &kernels;
}
#else
const KernelTable* kernels_neon() { return nullptr; }
#endif

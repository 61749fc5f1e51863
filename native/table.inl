// Last of the files included by each instruction set: its entry in the dispatch.
#include "conv.inl"
#include "planes.inl"

static KernelTable table(const char* name, void (*half)(const AttentionBlock*, void*) = attention) {
    return {name, TILE_PANELS, quantize_rows, unpack, linear_int8, FEW_ROWS, WEIGHT_OFFSET, linear_few, linear_float, layer_norm, activate, attention, half,
            rms_norm, gated, rotate, attend_paged, attention_scratch, &conv_table, &plane_table};
}

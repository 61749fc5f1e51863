// Last of the files included by each instruction set: its entry in the dispatch.
static KernelTable table(const char* name) {
    return {name, TILE_PANELS, quantize_rows, linear_int8, linear_float, layer_norm, activate, attention,
            attention_scratch};
}

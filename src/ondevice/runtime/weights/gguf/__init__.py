"""GGUF files of the Llama family, as the runtime reads models: configuration, tensors, tokenizer."""

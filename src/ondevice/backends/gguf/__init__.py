"""GGUF files for llama.cpp, and all that reads its files."""

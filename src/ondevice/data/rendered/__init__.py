"""Pictures that the project draws itself, with their ground truth: one file a set, the tools they share in
`canvas` and `textures`.

Knows NumPy and Pillow. Knows no file of a public data set but by the adapter of each module.
"""

"""Quantization: fewer bits for each number, by a uniform grid, a codebook or a code of vectors."""

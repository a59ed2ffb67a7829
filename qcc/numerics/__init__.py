"""Arithmetic of quantized formats in torch and numpy. Knows no IR."""

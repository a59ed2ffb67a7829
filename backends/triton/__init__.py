"""The Triton backend: kernels printed as Triton source."""

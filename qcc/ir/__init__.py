"""The quantization IR: types, operations, verifier, weight store."""

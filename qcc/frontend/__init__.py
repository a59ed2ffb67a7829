"""The front end: `torch.export` graphs become modules of the quantization IR."""

"""What `torch.compile(backend="qcc")` is made of."""

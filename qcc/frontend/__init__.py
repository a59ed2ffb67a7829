"""torch.export graphs to IR."""

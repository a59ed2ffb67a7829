"""Write artifacts in the checkpoint formats of other programs. What a format cannot say is refused by name."""

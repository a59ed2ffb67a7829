"""What quantization did to a model: measured layer by layer, shown in a terminal and as one page."""

"""Streaming dataflow C++ for Vitis HLS, with a testbench that runs without the vendor's tools."""

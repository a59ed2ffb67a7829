"""The C backend for CPUs."""

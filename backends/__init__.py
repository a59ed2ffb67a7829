"""The backends of qcc, imported as `qcc.backends`."""

if __name__ != "qcc.backends":
    raise ImportError("import qcc.backends, not backends: a second copy of the package would be loaded")

"""The passes of qcc, imported as `qcc.passes`."""

if __name__ != "qcc.passes":
    raise ImportError("import qcc.passes, not passes: a second copy of the package would be loaded")

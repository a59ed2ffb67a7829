"""Statistics of a model's values over samples: read the samples, run them, and add up what is asked for.

Samples are run one after another; what is kept of a value is its statistic, whose size depends on no sample. The same
samples in the same order give the same statistics.
"""

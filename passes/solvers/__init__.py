"""Choose the codes of a weight: numeric only. A solver sees matrices and a format; it knows no IR and no model.

A weight is `W [N, K]`, its Hessian the sum of x xᵀ over the inputs x of the layer, `[K, K]`: what the layer's output
loses by codes Ŵ is tr((W - Ŵ) H (W - Ŵ)ᵀ).
"""

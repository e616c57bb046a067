"""Proximal operators: constraints and penalties as objects, prox(x, step) = argmin_y g(y) + |y - x|² / (2 step).

``base`` holds the interface; then the catalogue: ``entries`` (each number by itself), ``simplices`` (shares and linear
constraints), ``balls`` (norms that are bounded, and sparsity that is counted), ``norms`` (norms as penalties, and groups),
``shapes`` (order, smoothness, jumps), ``matrices`` (singular values, structure), ``images``; ``built`` makes operators from
others and from plain functions, and ``sums`` knows which may be added.
"""

from .base import Index, Prox, Step, as_prox, group_metric
from .built import Function, Transposed
from .entries import L1, Box, Entropy, Fixed, L2Squared, NonNegative, Unconstrained
from .simplices import Normalize, Simplex, SumToOne
from .sums import Sum

__all__ = [
    "L1",
    "Box",
    "Entropy",
    "Fixed",
    "Function",
    "Index",
    "L2Squared",
    "NonNegative",
    "Normalize",
    "Prox",
    "Simplex",
    "Step",
    "Sum",
    "SumToOne",
    "Transposed",
    "Unconstrained",
    "as_prox",
    "group_metric",
]

"""Proximal optimizers for any nn.Module: torch.optim optimizers that carry a prox in their param groups."""

from .base import ProxOptimizer, Residual
from .pgm import PGM

__all__ = ["PGM", "ProxOptimizer", "Residual"]

"""Proximal optimizers for any nn.Module: torch.optim optimizers that carry a prox in their param groups."""

from .adam import ProxAdam
from .adaprox import AdaProx
from .apgm import APGM
from .base import ProxOptimizer, Residual
from .lbfgs import ProxLBFGS
from .npg import NPG
from .pgm import PGM
from .splitting import BSDMM, DavisYin
from .stochastic import ProxDoWG
from .wrap import Proximal

__all__ = [
    "APGM",
    "BSDMM",
    "NPG",
    "PGM",
    "AdaProx",
    "DavisYin",
    "ProxAdam",
    "ProxDoWG",
    "ProxLBFGS",
    "ProxOptimizer",
    "Proximal",
    "Residual",
]

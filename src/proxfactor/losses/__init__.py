"""Losses: what a cell pays for being predicted as pred when the data says x, entry by entry.

base       Loss itself, Frobenius, KL, and any function as a loss
counts     Itakura-Saito, any β-divergence, Poisson with a log link, negative binomial
robust     Huber, absolute error, quantiles
classes    logistic, hinge, ordinal, multinomial
mixed      another loss for each column, or for each row
"""

from .base import KL, Frobenius, FunctionLoss, Loss, as_loss
from .classes import HingeLoss, LogisticLoss, Multinomial, Ordinal
from .counts import Beta, ItakuraSaito, NegativeBinomial, PoissonLog
from .mixed import ByColumn, ByRow
from .robust import AbsoluteError, HuberLoss, PinballLoss

__all__ = [
    "KL",
    "AbsoluteError",
    "Beta",
    "ByColumn",
    "ByRow",
    "Frobenius",
    "FunctionLoss",
    "HingeLoss",
    "HuberLoss",
    "ItakuraSaito",
    "LogisticLoss",
    "Loss",
    "Multinomial",
    "NegativeBinomial",
    "Ordinal",
    "PinballLoss",
    "PoissonLog",
    "as_loss",
]

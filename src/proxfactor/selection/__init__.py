"""Choosing: how many components, and which loss and constraint, by asking the fits for cells that were hidden from them.

holdout   single cells hidden all over the matrix, and the error of a fit on them
work      the fits: one after another or in processes, kept in a folder, gone on with
scan      rank_scan: how many components
advice    advise: loss, constraint and number of components, and whether there is anything to find
pictures  what they look like
"""

from .advice import Advice, advise
from .scan import Scan, rank_scan

__all__ = ["Advice", "Scan", "advise", "rank_scan"]

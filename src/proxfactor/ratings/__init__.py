"""Ratings: from a table of who rated what to predictions and recommendations."""

from .evaluation import Evaluation, ranking_measures, rating_measures

__all__ = ["Evaluation", "ranking_measures", "rating_measures"]

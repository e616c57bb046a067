"""Recommenders for people who come with a table: who rated what, in any data frame, and answers in the same one.

``tables`` reads ratings, ``splits`` parts them into what is learned from and what is kept to judge by, ``evaluation``
judges, ``tuning`` chooses options.
"""

from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate as evaluate
from .evaluation import ranking_measures as ranking_measures
from .evaluation import rating_measures as rating_measures
from .splits import split as split
from .tables import Ratings as Ratings
from .tables import codes_of as codes_of
from .tables import read_ratings as read_ratings
from .tuning import Tuned as Tuned
from .tuning import tune as tune

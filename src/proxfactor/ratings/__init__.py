"""Recommenders for people who come with a table: who rated what, in any data frame, and answers in the same one.

``tables`` reads ratings, ``splits`` parts them into what is learned from and what is kept to judge by.
"""

from .splits import split as split
from .tables import Ratings as Ratings
from .tables import codes_of as codes_of
from .tables import read_ratings as read_ratings

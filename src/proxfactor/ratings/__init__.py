"""Recommenders for people who come with a table: who rated what, in any data frame, and answers in the same one.

``tables`` reads ratings, ``splits`` parts them into what is learned from and what is kept to judge by, ``base`` says what
every recommender can do, ``linear`` has those in closed form, ``mf`` those that factor, ``bayes`` the one that knows how sure
it is (``gibbs`` draws for it), ``sampled`` the one by mini-batches, ``pattern`` what who rated what foretells, ``evaluation``
judges, ``comparison`` does so beside the baselines, ``tuning`` chooses options.
"""

from .base import Recommender as Recommender
from .bayes import BayesianMF as BayesianMF
from .comparison import Comparison as Comparison
from .comparison import compare as compare
from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate as evaluate
from .evaluation import ranking_measures as ranking_measures
from .evaluation import rating_measures as rating_measures
from .linear import EASE as EASE
from .linear import GFCF as GFCF
from .linear import Bias as Bias
from .linear import Popularity as Popularity
from .linear import PureSVD as PureSVD
from .mf import ExplicitMF as ExplicitMF
from .mf import ImplicitMF as ImplicitMF
from .sampled import SampledMF as SampledMF
from .splits import split as split
from .tables import Ratings as Ratings
from .tables import codes_of as codes_of
from .tables import read_ratings as read_ratings
from .tuning import Tuned as Tuned
from .tuning import tune as tune

"""Pictures of a result, and one HTML file that shows all of it: opened from disk, no network.

``factors`` has the page of a factorization, ``recommender`` that of a recommender, ``page`` what they share.
"""

from .factors import plot_components as plot_components
from .factors import plot_history as plot_history
from .factors import plot_loadings as plot_loadings
from .factors import plot_residual as plot_residual
from .factors import render as render
from .factors import write as write
from .recommender import render_recommender as render_recommender
from .recommender import write_recommender as write_recommender

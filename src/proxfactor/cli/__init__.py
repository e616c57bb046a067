"""The command line: files in, a folder and a report out. Nothing heavy is imported before a command runs."""

from . import factors as factors
from . import recommenders as recommenders
from .base import app as app
from .base import main as main

"""Files: a matrix in, whatever its format, and the run folder out and back in. No pickle is ever read.

``formats`` holds `read`: it tells the format and hands the file to ``tables`` (parquet, csv) or ``arrays`` (npy, npz, mtx);
``cells`` makes a Matrix of what they found. ``runs`` holds `save` and `load`. ``files`` writes whole or not at all, for all.
"""

from .files import write_atomically
from .formats import read
from .runs import FORMAT, check_target, load, save
from .tables import write_table

__all__ = ["FORMAT", "check_target", "load", "read", "save", "write_atomically", "write_table"]

"""``python -m proxfactor``."""

from .cli import main

main()

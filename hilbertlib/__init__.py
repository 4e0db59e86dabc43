"""Measure and regularize neural networks in function space.

The library behind the book *Networks in function space*. Each module is one idea and can be read in
one sitting; start with :mod:`hilbertlib.distance`.
"""

__version__ = "0.1.0"

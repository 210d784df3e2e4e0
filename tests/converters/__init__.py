"""Conversions from other libraries, against their documented formulas and, if installed, the libraries."""

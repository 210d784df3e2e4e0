"""Mirrors rnnjax/training."""

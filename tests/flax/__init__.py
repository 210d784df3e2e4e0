"""Tests of `rnnjax.flax` against Flax, with the same parameters."""

"""Tests of rnnjax.gradients, the instrument."""

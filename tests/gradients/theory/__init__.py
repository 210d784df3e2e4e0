"""Tests of rnnjax.gradients.theory."""

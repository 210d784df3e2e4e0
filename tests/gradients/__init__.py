"""Tests of rnnjax.gradients."""

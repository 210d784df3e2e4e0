"""Tests of rnnjax.dynamics."""

"""Tests of `rnnjax/_unroll/`."""

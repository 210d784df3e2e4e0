"""Tests of `rnnjax/unroll/`."""

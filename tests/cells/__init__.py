"""Tests of `rnnjax/cells/`."""

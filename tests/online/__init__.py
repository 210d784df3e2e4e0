"""Tests of rnnjax.online."""

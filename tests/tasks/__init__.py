"""Mirrors rnnjax/tasks."""

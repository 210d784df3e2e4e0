"""The tests mirror `rnnjax/`; property tests run over one registry of cells (`registry.py`)."""

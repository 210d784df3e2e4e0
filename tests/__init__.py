"""The tests mirror `rnnjax/`; the generic properties run over one registry of cells (`registry.py`)."""

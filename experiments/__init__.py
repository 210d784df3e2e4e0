"""Experiments over `rnnjax`: each is a module with a question, a command and expected numbers.

`python -m experiments` lists them. Nothing imports an experiment except its own tests; what they share is in
`experiments.lab` (options, kept rows, figures, reports) and `experiments.data` (vendored series).
"""

"""Runs `experiments.learning_rules`; see its docstring."""

from . import experiment

if __name__ == "__main__":
    experiment.main()

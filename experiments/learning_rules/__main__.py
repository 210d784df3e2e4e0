"""Runs `experiments.learning_rules`; see its docstring."""

from experiments.learning_rules import experiment

if __name__ == "__main__":
    experiment.main()

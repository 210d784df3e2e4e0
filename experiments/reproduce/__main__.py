"""Runs `experiments.reproduce`; see its docstring."""

from experiments.reproduce import experiment

if __name__ == "__main__":
    experiment.main()

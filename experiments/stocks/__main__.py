"""`python -m experiments.stocks`."""

from experiments.stocks import experiment

if __name__ == "__main__":
    experiment.main()

"""Data that comes with the experiments: nothing is fetched when they run. `README.md` says where each file is from."""

"""Every published number we know of beside ours, in one table.

Question: which published numbers on recurrent gradients, spectra and memory come out here, and how closely?
Command: python -m experiments.reproduce
Minutes: 6 on one core; 4 with --quick (smaller networks, fewer seeds, and wider tolerances where size matters).
Expected: every row marked exact passes, else the exit status is 1. The other rows are measurements by sampling, with
a tolerance that is written beside them; one that misses it says so and fails nothing.

Rows marked exact are closed forms and identities that need no luck. A row is kept when it is done: the same command
goes on where an earlier one stopped, and --only takes some of them. A row that raises is reported, and tried again next
time.
"""

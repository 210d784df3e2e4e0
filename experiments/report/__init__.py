"""All results on one page: a figure and its theory, residuals, and published numbers beside ours.

Question: what has been found so far, on one page that can be read on a phone, mailed and printed?
Command: python -m experiments.report
Minutes: 0.1; it computes nothing, and shows for each experiment the run that finished last.
Expected: results/report.html, some megabytes, which opens without a network and names what has not been run yet.

Runs are looked for in `results/` and `docs/` (`--folders`); a run with --quick counts only where there is no other. The
page has everything inside it, and no script.
"""

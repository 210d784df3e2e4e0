"""Lyapunov spectra of many networks: one program for all of them, or NumPy and SciPy step by step.

Question: what do the Lyapunov exponents of a driven tanh network cost, when a sweep over gains and seeds is one
program, and when it is the loop over steps with a QR decomposition in each that most people write?
Command: python -m benchmarks.observatory --json benchmarks/results/observatory.json --figures benchmarks/results
Minutes: about 7 on two cores; with --quick 1.
Expected: the target is ten times less a network than the plain loop on two cores. The narrower the networks and the
fewer the exponents, the more; for all exponents of wide networks both are near what matrix products cost.

Every network is tanh(x_t + h W), W Gaussian with the given gain, x_t Gaussian with variance 1 in every unit, below the
edge of chaos at gain 1.86: beyond it trajectories part at the last bit, and no two programs agree. All is float64, and
the exponents are compared before anything is timed. Two tasks: the exponents asked for (a share of all H), and the
leading one alone. Contestants:
  one program                      vmap over networks; orthonormal again every few steps
  ..., n at once                   groups that fit a core's cache, one after the other; nothing cut over threads
  ..., n at once, 2 devices        each device its share of the networks
  ..., n at once, 2 processes      each process its share, with a core and one thread of XLA's
  the products alone               the same of the products with W and nothing else: the floor
  NumPy                            a loop over networks and steps, `np.linalg.qr` at every step
  SciPy                            the same with `scipy.linalg.qr`, economic, in place, unchecked
  NumPy, QR as seldom              ... as in the program, which a plain loop leaves to its reader
  NumPy, networks stacked          all networks in one array, loop over steps only, QR as seldom
The three that loop over networks are run on --few of them.
"""

"""From order to chaos: Lyapunov exponents of a tanh network without input, against the gain of its weights.

    h_t = tanh(h_{t-1} W),   W ~ N(0, g²/H)

Question: how do the leading and the mean Lyapunov exponent of a wide tanh network depend on the gain g?
Command: python -m experiments.tanh_phase_diagram
Minutes: 5 on one core; 0.3 with --quick (narrower, fewer seeds).
Expected: below g = 1 the leading exponent is log|largest eigenvalue|, near log g; above it follows the mean field,
½ log(g² E[φ'²]), once g is well above 1 (near 1 finite width weighs heavily: trends only): 0.1547 at g = 2, 0.3103 at
g = 3. The mean of all exponents is log g - ½ + E[log φ'], -1.151 and -2.274 there. Published for H = 4096: leading
0.15425 and 0.30958, mean -1.15055 and -2.27390, Kaplan-Yorke dimension 0.2566 H and 0.2872 H. Whole spectra of 512
units, five seeds, come to within 1% of these means (off by -0.7 ± 0.4% and -0.3 ± 0.2%); of 256 units, -2.3 ± 1.0% and
-0.9 ± 0.6%: what is off is the size of the network and goes with it, as the mean over 1024 units by determinants shows
(+0.2 ± 0.1%, 0.0 ± 0.1%). In every spectrum the mean is that of log|det J| over the same steps to within rounding.

Leading exponents come from one perturbation carried along, all gains of a seed at once (they share the matrix); means
from log|det W| and the slopes along the trajectory; whole spectra, at a few gains, from H perturbations.

References: Sompolinsky, Crisanti and Sommers, Phys. Rev. Lett. 61 (1988), 259; Engelken, Wolf and Abbott, Phys. Rev.
Research 5 (2023), 043044, and the numbers at N = 4096 from the public repository davidclark1/rnn-lyapunov.
"""

"""The curse of memory: a unit that remembers longer is harder to train, even where no gradient explodes.

    h_t = λ h_{t-1} + x_t,   x white, variance 1        E[h²] = 1/(1 - λ²)        E[(∂h/∂λ)²] = (1 + λ²)/(1 - λ²)³

Question: how do the state and its sensitivity to the weight grow as the memory 1/(1 - λ) of a linear unit grows?
Command: python -m experiments.curse_of_memory
Minutes: 0.3 on one core; 0.2 with --quick.
Expected: the state's variance and the sensitivity's second moment lie on the closed forms within a few standard
errors, 5.26 and 263.9 at λ = 0.9; even divided by the state's variance the sensitivity grows like (1 - λ)^-2, so the
loss of a student that learns a teacher's λ has a valley that narrows as the teacher's memory grows.

Measured in float64 with `rnnjax.unroll` and its forward-mode derivative with respect to W2, over many sequences of
white noise, the transient left out. The valley: student and teacher see the same input, and

    E[(h_λ - h_λ*)²] = 1/(1 - λ²) + 1/(1 - λ*²) - 2/(1 - λ λ*)

whose curvature at λ* is twice the sensitivity's second moment.

Reference: Zucchet and Orvieto, Recurrent neural networks: vanishing and exploding gradients are not the end of the
story, NeurIPS 2024.
"""

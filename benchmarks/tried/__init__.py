"""What was tried to make the hoisted engine faster: each idea against the engine as it is.

Question: which of the ideas for a faster time loop help, at which sizes, and which are in the engine for a reason?
Command: python -m benchmarks.tried --json benchmarks/results/tried.json --figures benchmarks/results
Minutes: about 4 on two cores; with --quick 1.
Expected: no idea that is not in the engine is faster over all points; without those that are, it is slower at some.

Two contests a point. The first runs rnnjax on one device, with one thing changed at a time:
  unroll 2, unroll 4        so many steps in the body of the loop
  in 4 chunks               the input's projection for a quarter of the time at once
  slopes in the loop        always, where the engine decides by the size of a step
  slopes after the loop     the same, never
  projection whole          everything that needs no carry before the loop, pointwise parts too
  two halves                the batch as two independent loops in one program
The second is the loop's matrix product with a tanh and nothing else, forward and backward, in other orders:
  h W                       as it is: state [B, H], weight [H, G H]
  (W h)                     state [H, B], weight [G H, H]
  h (Wᵀ)ᵀ                   state [B, H], weight [G H, H] contracted over its last axis
  a product a gate          G weights [H, H]
"""

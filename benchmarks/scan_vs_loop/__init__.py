"""What a time loop costs, to run, to compile and in memory, as the sequence grows.

Question: when is a Python loop over time good enough, and what do `scan` and the hoisted engine save?
Command: python -m benchmarks.scan_vs_loop --json benchmarks/results/scan_vs_loop.json --figures benchmarks/results
Minutes: about 60 on two cores, most of it in compiling unrolled loops and in the largest size; with --quick 2.
Expected: at T = 1,000 a jitted loop compiles at least 50 times longer than a scan (its forward pass half a minute, its
training step minutes at T = 100 already), and an eager loop runs hundreds of times longer where a step is small; from
some 100 us a step on the matmuls catch up with it. Scan and hoisted compile in the same time at every T.

Contestants, all of them `rnnjax.unroll`, all giving the same outputs and gradients:
  eager loop    a Python loop as written, one operation at a time
  jitted loop   the same under `jax.jit`: T copies of the step in one program
  scan, scan×4, scan×16    `jax.lax.scan`, with 1, 4 or 16 steps in the body
  and every other engine there is, on one device and with the batch split over --devices.
Not every one can be run at every length; the result says who was left out where, and why.
"""

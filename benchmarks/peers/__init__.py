"""rnnjax beside Flax linen, Flax nnx, Haiku, Equinox, Keras on JAX, and PyTorch.

Question: how long do a forward pass and a training step take, against the fastest of the peers at each point, against
PyTorch, and against the matmuls alone?
Command: python -m benchmarks.peers --json benchmarks/results/peers.json --figures benchmarks/results
Minutes: about 40 on two cores; with --quick less than 5.
Expected: the targets are a training step 2 times faster than the fastest JAX peer in the geometric mean over the
reference grid and nowhere under 1.1, no LSTM point slower than PyTorch's, and at most 1.4 times the floor from H = 128
and B = 16 on; what was reached is in benchmarks/results/peers.json.

Every peer is given the same weights in its own layout, runs as its own documentation has it, in the layout of time and
batch that costs it least, with the same allocator and cores, compiled ahead. Its outputs and gradients are compared
with rnnjax's before it is timed. Where a peer's cell is another function (Haiku's GRU resets before the product, its
vanilla RNN is a ReLU) it is timed and marked as not compared. Padded batches go through each peer's own lengths or
mask: `seq_lengths` in Flax, `mask` in Keras, packed sequences in PyTorch; Haiku and Equinox have none.

Install the peers with `pip install 'rnnjax[peers]'`; those that are missing are named and left out.
"""

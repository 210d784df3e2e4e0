"""Every cell against every library that has it, and against its paper: the same weights, values and gradients."""

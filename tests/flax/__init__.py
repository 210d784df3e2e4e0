"""The door for users of Flax: against Flax itself, with the same parameters."""

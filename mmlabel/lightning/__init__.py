"""What Lightning runs: the module, its callbacks, and what stands in for Lightning's own parts."""

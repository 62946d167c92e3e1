"""Benchmarks: how fast this machine rehearses, as ratios of two things timed in one run."""

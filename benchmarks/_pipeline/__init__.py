"""The measurements of `benchmarks/pipeline.py`, a module for each."""

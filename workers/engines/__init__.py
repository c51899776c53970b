"""Batches of decoded images through the network: what all engines share, and one engine for each task."""

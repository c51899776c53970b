"""The worker's side: decoding, networks, the three algorithms, encoding."""

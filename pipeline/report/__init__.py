"""`pixgrad report`: what a run did, on one static page, from its files alone. No torch, no Ray."""

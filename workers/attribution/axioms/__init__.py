"""The axioms of integrated gradients (Sundararajan, Taly and Yan 2017) on a network, with controls that fail."""

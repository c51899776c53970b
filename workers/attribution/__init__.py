"""Integrated gradients: quadrature rules, baselines, the integration itself, its target class and its picture."""

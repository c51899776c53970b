"""What an auditor should look at first: flags from a row's figures. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SMALL_DIFFERENCE = 0.01
"""|F(x) - F(x')| below this share of the larger of |F(x)| and |F(x')| is hardly anything to share out."""


def flags(columns: Mapping[str, Any]) -> list[str]:
    """The flags of an attribution's columns.

    not_converged     the tolerances were not reached
    wrong_prediction  the network predicts another class than the label's
    against_class     the image scores no higher than the baseline: on the whole the map speaks against its class
    small_difference  F(x) and F(x') are nearly the same, so that relative errors of the sum are large
    zero_map          the map is zero everywhere
    """
    value, baseline = columns["objective_value"], columns["baseline_value"]
    found = {
        "not_converged": columns["converged"] is False,
        "wrong_prediction": columns["correct"] is False,
        "against_class": baseline is not None and value <= baseline,
        "small_difference": baseline is not None
        and abs(value - baseline) < SMALL_DIFFERENCE * max(abs(value), abs(baseline)),
        "zero_map": columns["attribution_l1"] == 0,
    }
    return [name for name, raised in found.items() if raised]

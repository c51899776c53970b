from __future__ import annotations

import pytest
import torch

from workers.precision import full_precision


def settings() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def test_reduced_precision_is_off_inside_and_as_before_after(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    before = settings()
    try:
        torch.set_float32_matmul_precision("medium")
        with full_precision():
            assert settings() == ("highest", False)
        assert settings() == ("medium", True)
        with pytest.raises(KeyError), full_precision():
            raise KeyError
        assert settings() == ("medium", True)
    finally:
        torch.set_float32_matmul_precision(before[0])

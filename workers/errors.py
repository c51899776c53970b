"""Failures that are part of the work: each has a code for tables and a sentence for people."""

from __future__ import annotations


class PixgradError(Exception):
    """An expected error: one sentence that says what is wrong, where, and what to do.

    `exit_code` is what a command that ends with it exits with; 2 stands for a wrong job or usage.
    """

    exit_code = 2


class ImageError(PixgradError):
    """One image (or output) can't be processed; its row says `error_code` and `error`, its neighbours go on."""

    def __init__(self, code: str, sentence: str):
        super().__init__(sentence)
        self.code = code

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        return ImageError, (self.code, str(self))


class OutOfMemoryError(PixgradError):
    """Memory ran out over outputs that had company; `indices` are theirs in their unit."""

    def __init__(self, sentence: str, indices: tuple[int, ...]):
        super().__init__(sentence)
        self.indices = indices

    def __reduce__(self) -> tuple[type[OutOfMemoryError], tuple[str, tuple[int, ...]]]:
        return OutOfMemoryError, (str(self), self.indices)


class DeviceError(Exception):
    """The device takes no more work from this process, which has to end."""


class ModelError(PixgradError):
    """The network or its weights can't be used as asked: unknown layer, wrong hash, missing file, no classifier."""


def first_line(error: BaseException) -> str:
    """The first line of what a library's error says, for a sentence of our own."""
    return str(error).strip().split("\n")[0]

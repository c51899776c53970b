"""YAML as plain values, each with the place it was written at, so that a mistake can be shown there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from workers.errors import PixgradError

KeyPath = tuple[str, ...]
"""The keys, and indices into lists, that lead to a value: ("deepdream", "stages", "0", "layers")."""

MAX_VALUES = 100_000
MAX_CHARACTERS = 2**22
MAX_DEPTH = 32

_TAG = "tag:yaml.org,2002:"
_CONSTRUCTED = {_TAG + kind for kind in ("int", "float", "bool", "null")}
_TEXT = {_TAG + kind for kind in ("str", "timestamp", "value")}  # YAML 1.2 has no dates and no "="
_MERGE = _TAG + "merge"


class JobFileError(PixgradError):
    """A job file, or a `--set` over it, is wrong: a sentence for each mistake, each on a line of its own."""


class OptionName(str):
    """The place of a value that an option of its own set, such as "size: "; the key's path is then left out."""


@dataclass(frozen=True)
class Document:
    """`values` are dicts, lists, strings, numbers, booleans and None; `places` says where each was written."""

    values: Any
    places: dict[KeyPath, str]

    def sentence(self, path: KeyPath, text: str) -> str:
        """`text` about the value at `path`, led by the place of the value, or of what is nearest around it."""
        nearest = next(path[:depth] for depth in range(len(path), -1, -1) if path[:depth] in self.places)
        place = self.places[nearest]
        return _sentence(place, () if isinstance(place, OptionName) else path, text)


def read_document(text: str, file: str) -> Document:
    """A YAML 1.2 text with its lines.

    Raises JobFileError for what isn't YAML, and for what a job file can't hold: duplicate keys, keys that aren't text,
    tags, numbers of more than 64 bits, and aliases that expand to more than MAX_VALUES values or MAX_CHARACTERS.
    """
    reader = _Reader(lambda line: f"{file}:{line}: ")
    values = reader.read(text, ())
    return Document(values, {**reader.places, (): f"{file}: "})


def override(document: Document, assignment: str) -> Document:
    """The document with one `key.path=value` put over it; the value is YAML, missing mappings and lists are made.

    An index into a list is one of its entries, or the one after the last. Raises JobFileError.
    """
    dotted, equals, text = assignment.partition("=")
    path = tuple(dotted.strip().split("."))
    if not equals or not all(path):
        hint = "write key.path=value, such as style.iterations=500"
        raise JobFileError(_sentence("--set ", (), f"{assignment}: {hint}"))
    return put(document, path, _Reader(lambda _: "--set ").read(text, path), "--set ")


def put(document: Document, path: KeyPath, value: Any, place: str) -> Document:
    """The document with a plain value put at `path`, as if written at `place`. Raises JobFileError as `override`."""
    values = _with_value(document.values, path, value, path)
    kept = {known: old for known, old in document.places.items() if known[: len(path)] != path}
    made = {path[:depth]: place for depth in range(1, len(path) + 1)}
    return Document(values, {**made, **kept})


def _with_value(value: Any, steps: KeyPath, new: Any, path: KeyPath) -> Any:
    """`value` with `new` put where `steps`, the end of `path`, lead."""
    if not steps:
        return new
    step, rest = steps[0], steps[1:]
    if value is None:
        value = [] if step.isdecimal() else {}
    if isinstance(value, dict):
        return {**value, step: _with_value(value.get(step), rest, new, path)}
    here = ".".join(path[: len(path) - len(steps)])
    if not isinstance(value, list):
        raise JobFileError(_sentence("--set ", path, f"{here} is neither a mapping nor a list, so {step} has no place"))
    if not step.isdecimal() or len(step) > len(str(MAX_VALUES)) or int(step) > len(value):
        raise JobFileError(_sentence("--set ", path, f"{here} is a list of {len(value)}, counted from 0"))
    index = int(step)
    old = value[index] if index < len(value) else None
    return [*value[:index], _with_value(old, rest, new, path), *value[index + 1 :]]


def _sentence(place: str, path: KeyPath, text: str) -> str:
    sentence = f"{place}{'.'.join(path)}: {text}" if path else f"{place}{text}"
    return " ".join(sentence.splitlines())  # a quoted key may hold line breaks


class _Reader:
    """Turns the nodes of one YAML text into plain values, and notes the place of each."""

    def __init__(self, place: Callable[[int], str]):
        self.places: dict[KeyPath, str] = {}
        self._place = place
        self._values = 0
        self._characters = 0
        self._yaml = YAML(typ="safe", pure=True)
        self._yaml.composer.warn_double_anchors = False

    def read(self, text: str, path: KeyPath) -> Any:
        try:
            node = self._yaml.compose(text)
            return None if node is None else self._value(node, path)
        except MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise self._error(line, path, f"not valid YAML: {error.problem or error.context}") from None
        except YAMLError as error:
            line = text.count("\n", 0, getattr(error, "position", 0)) + 1
            raise self._error(line, path, f"not valid YAML: {str(error).splitlines()[0]}") from None
        except RecursionError:
            raise self._error(1, path, "nested too deeply") from None

    def _value(self, node: Node, path: KeyPath) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._fault(node, path, f"the aliases expand to more than {MAX_VALUES:,} values")
        if len(path) > MAX_DEPTH:
            raise self._fault(node, path[:1], f"nested more than {MAX_DEPTH} deep")
        if isinstance(node, MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
            return [self._at(item, item, (*path, str(index))) for index, item in enumerate(node.value)]
        if isinstance(node, ScalarNode) and node.tag in _CONSTRUCTED | _TEXT:
            return self._scalar(node, path)
        raise self._fault(node, path, f"the YAML tag {node.tag.replace(_TAG, '!!')} is not allowed, write plain values")

    def _at(self, written: Node, node: Node, path: KeyPath) -> Any:
        self.places[path] = self._place(written.start_mark.line + 1)
        return self._value(node, path)

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        own = [(key, value) for key, value in node.value if key.tag != _MERGE]
        for source in (value for key, value in node.value if key.tag == _MERGE):
            values |= self._merged(source, path)
        first_lines: dict[str, int] = {}
        for key, value in own:
            if not isinstance(key, ScalarNode) or key.tag not in _TEXT:
                raise self._fault(key, path, "keys must be text; put this one in quotes or correct it")
            name, line = self._scalar(key, path), key.start_mark.line + 1
            if name in first_lines:
                raise self._fault(key, (*path, name), f"duplicate key, first written on line {first_lines[name]}")
            first_lines[name] = line
            values[name] = self._at(key, value, (*path, name))
        return values

    def _merged(self, node: Node, path: KeyPath) -> dict[str, Any]:
        """The mapping, or the mappings of which the first has precedence, that `<<` puts in."""
        sources = node.value if isinstance(node, SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for source in reversed(sources):
            if not isinstance(source, MappingNode):
                raise self._fault(source, path, "<< takes a mapping or a list of mappings")
            merged |= self._value(source, path)
        return merged

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        self._characters += len(node.value)
        if self._characters > MAX_CHARACTERS:
            raise self._fault(node, path, f"the aliases expand to more than {MAX_CHARACTERS:,} characters")
        if node.tag in _TEXT:
            if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in node.value):
                raise self._fault(node, path, "text can't hold NUL characters or halves of surrogate pairs")
            return node.value
        kind = node.tag.replace(_TAG, "")
        try:
            value = self._yaml.constructor.construct_object(node)
        except (ValueError, LookupError, YAMLError):
            raise self._fault(node, path, f"this can't be read as {kind}: {node.value[:40]!r}") from None
        if isinstance(value, int) and value.bit_length() > 63:
            raise self._fault(node, path, f"no number here needs more than 64 bits: {node.value[:40]}")
        return value

    def _fault(self, node: Node, path: KeyPath, text: str) -> JobFileError:
        return self._error(node.start_mark.line + 1, path, text)

    def _error(self, line: int, path: KeyPath, text: str) -> JobFileError:
        return JobFileError(_sentence(self._place(line), path, text))

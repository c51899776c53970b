"""A job file with comments, from the schema: every key of the job is in it, those left at their defaults behind #."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jobs.mistakes import Schema, described
from pipeline.config import TASKS

_PLAIN = re.compile(r"(?:\.{0,2}/)?[A-Za-z_][\w./+-]*", re.ASCII)
_WORDS = {"true", "false", "null", "yes", "no", "on", "off"}
_COMMENT_COLUMN = 36


class _Line(NamedTuple):
    text: str
    comment: str = ""


def commented_job(values: Mapping[str, Any], schema: Schema, head: str) -> str:
    """The job of `values` as YAML under the comment `head`; reading it gives the values back.

    `schema` is the JSON Schema of a job. Each key that `values` don't have stands commented out with its default, and
    so does, in a list of mappings, what its first one doesn't have; of the three tasks only the job's own is there.
    """
    properties = {key: sub for key, sub in schema["properties"].items() if key in values or key not in TASKS}
    lines = _Template(schema["$defs"]).mapping({"properties": properties}, values)
    comments = [f"# {line}".rstrip() for line in head.splitlines()]
    return "\n".join([*comments, "", *map(_written, lines)]) + "\n"


class _Template:
    def __init__(self, definitions: dict[str, Schema]):
        self._definitions = definitions

    def mapping(self, schema: Schema, values: Mapping[str, Any], *, defaults: bool = True) -> Iterator[_Line]:
        """The lines of a mapping; with `defaults` also of the keys it doesn't have."""
        for key, sub in schema["properties"].items():
            if key in values:
                yield from self._entry(key, sub, values[key], defaults=defaults)
            elif defaults:
                lines = self._entry(key, sub, self._default(sub), defaults=False)
                yield from (_Line(f"# {line.text}", line.comment) for line in lines)

    def _entry(self, key: str, schema: Schema, value: Any, *, defaults: bool) -> Iterator[_Line]:
        inner = self._inner(schema)
        if inner and isinstance(value, Mapping):
            yield _Line(f"{key}:", inner["description"].splitlines()[0])
            yield from map(_indented, self.mapping(inner, value, defaults=defaults))
        elif self._is_list_of_mappings(schema):
            yield _Line(f"{key}:", self._comment(schema))
            for index, item in enumerate(value):
                yield from self._item(schema["items"], item, defaults=defaults and index == 0)
        else:
            yield _Line(f"{key}: {_flow(value)}", self._comment(schema))

    def _item(self, schema: Schema, values: Mapping[str, Any], *, defaults: bool) -> Iterator[_Line]:
        """One mapping of a list. The dash stands before a key that counts, so those come first."""
        lines = list(self.mapping(self._resolved(schema), values, defaults=defaults))
        lines.sort(key=lambda line: line.text.startswith("#"))
        if not values:
            lines.insert(0, _Line("{}"))
        for index, line in enumerate(lines):
            indent = "  - " if index == 0 else "    "
            yield _Line(indent + line.text, line.comment)

    def _inner(self, schema: Schema) -> Schema | None:
        """The mapping that a value of this schema is, or else the one mapping of several keys that it can be."""
        if "anyOf" not in schema:
            resolved = self._resolved(schema)
            return resolved if "properties" in resolved else None
        forms = [self._resolved(form) for form in schema["anyOf"]]
        mappings = [form for form in forms if len(form.get("properties", ())) > 1]
        return mappings[0] if len(mappings) == 1 else None

    def _is_list_of_mappings(self, schema: Schema) -> bool:
        return "properties" in self._resolved(schema.get("items", {}))

    def _default(self, schema: Schema) -> Any:
        """The default, with those of all keys inside it."""
        inner = self._inner(schema) if "anyOf" not in schema else None
        if inner:
            return {key: self._default(sub) for key, sub in inner["properties"].items()}
        return [{}] if self._is_list_of_mappings(schema) else schema.get("default")

    def _comment(self, schema: Schema) -> str:
        text = schema.get("description", "")
        if text and "enum" not in schema:
            return text
        choices = " | ".join(schema.get("enum", ())) or described(schema, self._definitions)
        return f"{choices}; {text}" if text else choices

    def _resolved(self, schema: Schema) -> Schema:
        return self._definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _indented(line: _Line) -> _Line:
    return _Line(f"  {line.text}", line.comment)


def _written(line: _Line) -> str:
    return f"{line.text:<{_COMMENT_COLUMN}}  # {line.comment}" if line.comment else line.text


def _flow(value: Any) -> str:
    """A plain value on one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in quoted)

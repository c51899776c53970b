"""What is wrong with a job file's values, found against the JSON Schema of a job and said in words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from itertools import islice
from typing import Any, NamedTuple

from jobs.document import KeyPath

Schema = dict[str, Any]

_KINDS = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
_WORDS = {
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "integer": "a whole number",
    "number": "a number",
}


MOST_MISTAKES = 100
"""As many as are told at a time: a file with more is of another kind, or has one mistake many times."""


class Mistake(NamedTuple):
    """Where a value is wrong, and what is wrong with it."""

    path: KeyPath
    text: str


def find_mistakes(value: Any, schema: Schema) -> list[Mistake]:
    """The mistakes in `value`, plain YAML values, against a JSON Schema as pydantic writes it; MOST_MISTAKES at most.

    A value of several forms (`anyOf`) gets the mistakes of the one form that it resembles, or one sentence about all.
    """
    return list(islice(_Checker(schema.get("$defs", {})).check(value, schema, ()), MOST_MISTAKES))


def described(schema: Schema, definitions: dict[str, Schema]) -> str:
    """What a schema allows, in words: "a whole number of at least 1", "lbfgs or adam"."""
    return _Checker(definitions).described(schema)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word most like a misspelt one, or None when none is like it."""
    matches = get_close_matches(word.lower(), list(known), n=1)
    return matches[0] if matches else None


class _Checker:
    def __init__(self, definitions: dict[str, Schema]):
        self._definitions = definitions

    def check(self, value: Any, schema: Schema, path: KeyPath) -> Iterator[Mistake]:
        schema = self._resolved(schema)
        if isinstance(value, float) and not math.isfinite(value):
            yield Mistake(path, f"{_shown(value)} is not allowed, numbers must be finite")
        elif "anyOf" in schema:
            yield from self._check_choice(value, schema, path)
        elif not _fits(value, schema):
            yield self._unfit(value, schema, path)
        elif isinstance(value, dict):
            yield from self._check_mapping(value, schema, path)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                yield from self.check(item, _item_schema(schema, index), (*path, str(index)))

    def _check_choice(self, value: Any, schema: Schema, path: KeyPath) -> Iterator[Mistake]:
        found = [list(self.check(value, choice, path)) for choice in schema["anyOf"]]
        if not all(found):
            return
        alike = [index for index, choice in enumerate(schema["anyOf"]) if _resembles(value, self._resolved(choice))]
        if len(alike) == 1:
            yield from found[alike[0]]
        else:
            yield self._unfit(value, schema, path)

    def _check_mapping(self, value: dict[str, Any], schema: Schema, path: KeyPath) -> Iterator[Mistake]:
        properties = schema["properties"]
        unknown = islice((key for key in value if key not in properties), MOST_MISTAKES)
        misspelt = {key: nearest(key, properties) for key in unknown}
        meant = {*value, *filter(None, misspelt.values())}  # a misspelt key is one mistake, not a missing key as well
        for key, item in value.items():
            if key in properties:
                yield from self.check(item, properties[key], (*path, key))
            elif key in misspelt:
                hint = f', did you mean "{misspelt[key]}"?' if misspelt[key] else "."
                yield Mistake((*path, key), f"unknown key{hint} Known keys: {', '.join(properties)}")
        for key in schema.get("required", []):
            if key not in meant:
                wanted = properties[key].get("description") or self.described(properties[key])
                yield Mistake((*path, key), f"this key is required: {wanted}")
        yield from _check_alternatives(schema, meant, path)

    def _unfit(self, value: Any, schema: Schema, path: KeyPath) -> Mistake:
        return Mistake(path, f"expected {self.described(schema)}, not {_shown(value)}" + self._hint(value, schema))

    def _resolved(self, schema: Schema) -> Schema:
        return self._definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    def described(self, schema: Schema) -> str:
        """As the function of this name."""
        schema = self._resolved(schema)
        if "anyOf" in schema:
            choices = [self._resolved(choice) for choice in schema["anyOf"]]
            return _either([form for choice in choices for form in _constants(choice) or [self.described(choice)]])
        if "const" in schema or "enum" in schema:
            return _either(_constants(schema))
        if schema["type"] == "array":
            return self._described_list(schema)
        if schema["type"] == "object":
            return self._described_mapping(schema["properties"])
        return ("non-empty " if "minLength" in schema else "") + _WORDS[schema["type"]] + _limits(schema)

    def _described_list(self, schema: Schema) -> str:
        if "prefixItems" in schema:
            return f"[{', '.join(self.described(item) for item in schema['prefixItems'])}]"
        items = self._resolved(schema["items"])
        described = f"({self.described(items)})" if "anyOf" in items else self.described(items)
        return f"a {'non-empty ' if 'minItems' in schema else ''}list of {described}"

    def _described_mapping(self, properties: dict[str, Schema]) -> str:
        if len(properties) > 1:
            return f"a mapping of {', '.join(properties)}"
        return "{" + ", ".join(f"{key}: {self.described(schema)}" for key, schema in properties.items()) + "}"

    def _hint(self, value: Any, schema: Schema) -> str:
        resolved = self._resolved(schema)
        if value is None and resolved.get("type") == "object" and "required" not in resolved:
            return "; write {} for its defaults"
        word = next(iter(value), "") if isinstance(value, dict) else value
        close = nearest(word, self._words_of(schema)) if isinstance(word, str) else None
        return f'; did you mean "{close}"?' if close and close != word else ""

    def _words_of(self, schema: Schema) -> list[str]:
        """The constants that a schema allows, and the keys of its mappings."""
        choices = [self._resolved(choice) for choice in schema.get("anyOf", [schema])]
        return [word for choice in choices for word in (*_constants(choice), *choice.get("properties", ()))]


def _fits(value: Any, schema: Schema) -> bool:
    """Whether a value itself, not yet what it holds, is of the schema's type, constants and limits."""
    if "const" in schema or "enum" in schema:
        return isinstance(value, str) and value in _constants(schema)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _number_fits(value, schema)
    if _KINDS[type(value)] != schema["type"]:
        return False
    if isinstance(value, str):
        return len(value) >= schema.get("minLength", 0)
    return not isinstance(value, list) or schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf)


def _number_fits(value: int | float, schema: Schema) -> bool:
    whole = isinstance(value, int) or (value.is_integer() and abs(value) < 2**63)
    return (
        (schema["type"] == "number" or (schema["type"] == "integer" and whole))
        and schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)
        and schema.get("exclusiveMinimum", -math.inf) < value < schema.get("exclusiveMaximum", math.inf)
    )


def _resembles(value: Any, schema: Schema) -> bool:
    """Whether mistakes against this form of a value say more than "it is none of the forms"."""
    if isinstance(value, dict) and schema.get("type") == "object":
        known = schema["properties"]
        return len(known) > 1 or any(key in known for key in value)
    return isinstance(value, list) and bool(value) and schema.get("type") == "array" and "items" in schema


def _check_alternatives(schema: Schema, given: set[str], path: KeyPath) -> Iterator[Mistake]:
    names = [key for alternative in schema.get("oneOf", []) for key in alternative["required"]]
    chosen = [name for name in names if name in given]
    if names and len(chosen) != 1:
        where = (*path, chosen[1]) if chosen else path
        yield Mistake(where, f"give exactly one of {', '.join(names)}, not {' and '.join(chosen) or 'none'}")


def _item_schema(schema: Schema, index: int) -> Schema:
    return schema["prefixItems"][index] if "prefixItems" in schema else schema["items"]


def _constants(schema: Schema) -> list[str]:
    return [schema["const"]] if "const" in schema else schema.get("enum", [])


def _limits(schema: Schema) -> str:
    """The bounds of a number, as the end of its description."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    for key, words in (("minimum", "of at least"), ("exclusiveMinimum", "above"), ("maximum", "of at most")):
        if key in schema:
            return f" {words} {schema[key]}"
    return ""


def _either(forms: list[str]) -> str:
    return f"{', '.join(forms[:-1])} or {forms[-1]}" if len(forms) > 1 else forms[0]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"

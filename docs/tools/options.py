"""The tables of options in the pages beside this folder, from the JSON Schema of a job file.

    python docs/tools/options.py            # writes them between their marks
    python docs/tools/options.py --check    # only says which pages are out of date

A table stands between `<!-- options: NAME -->` and `<!-- end of options -->`. NAME is a key of a job (`style`), one of
the schema's definitions (`Stage`), or `job`: the keys that all jobs have.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from jobs.mistakes import Schema, described
from jobs.spec import json_schema
from pipeline.config import TASKS

DOCS = Path(__file__).parents[1]
LONGEST_VALUE = 80
"""Characters; where a key has many forms, its meaning lists them."""

_BLOCK = re.compile(r"(<!-- options: (\w+) -->\n).*?(<!-- end of options -->)", re.DOTALL)


def with_tables(page: str) -> str:
    """A page's Markdown with its tables of options as the schema has them now. Raises KeyError for an unknown name."""
    schema = json_schema()
    return _BLOCK.sub(lambda block: f"{block[1]}\n{_table(schema, block[2])}\n\n{block[3]}", page)


def pages() -> Iterator[Path]:
    """The pages that have such a table."""
    return (path for path in sorted(DOCS.rglob("*.md")) if _BLOCK.search(path.read_text(encoding="utf-8")))


def _table(schema: Schema, name: str) -> str:
    definitions = schema["$defs"]
    if name == "job":
        section = {**schema, "properties": {key: sub for key, sub in schema["properties"].items() if key not in TASKS}}
    else:
        section = _resolved(schema["properties"].get(name) or definitions[name], definitions)
    rows = [("key", "value", "default", "meaning"), ("---",) * 4, *_rows(section, definitions)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _rows(section: Schema, definitions: dict[str, Schema], prefix: str = "") -> Iterator[tuple[str, ...]]:
    """A row for each key; those of a mapping inside with its name before them."""
    for key, sub in section["properties"].items():
        inner = _resolved(sub, definitions)
        if "properties" in inner and "required" not in inner:
            yield from _rows(inner, definitions, f"{prefix}{key}.")
        else:
            value, meaning = described(sub, definitions), sub.get("description", "")
            shown = "" if meaning and len(value) > LONGEST_VALUE else value
            default = "required" if key in section.get("required", ()) else f"`{_cell(_default(sub))}`"
            yield f"`{prefix}{key}`", _cell(shown), default, _cell(meaning)


def _default(schema: Schema) -> str:
    """As JSON, which is YAML, too. Without one it is a list with one mapping, all of whose keys have theirs."""
    return json.dumps(schema.get("default", [{}]))


def _resolved(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    return definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _cell(text: str) -> str:
    """Words as they stand, in a cell of a table."""
    return re.sub(r"([|<*])", r"\\\1", text)


def main() -> None:
    """Write the tables, or with --check end with 1 if one is out of date."""
    stale = []
    for path in pages():
        page = path.read_text(encoding="utf-8")
        if (new := with_tables(page)) != page:
            stale.append(path.relative_to(DOCS).as_posix())
            if "--check" not in sys.argv:
                path.write_text(new, encoding="utf-8")
    print(f"{'out of date' if '--check' in sys.argv else 'written'}: {', '.join(stale) or 'none'}")
    sys.exit(1 if stale and "--check" in sys.argv else 0)


if __name__ == "__main__":
    main()

"""Parquet, CSV and text tables as a source: a column `uri`, and others that ride along into the rows."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from posixpath import dirname, join, normpath
from typing import Any, BinaryIO
from urllib.parse import quote, unquote_to_bytes

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.listing import Source, SourceError, behind, folder_label, numbered, suffix
from workers.records import ImageRef
from workers.storage import open_store

TABLE_SUFFIXES = (".parquet", ".csv", ".txt")
_BATCH_ROWS = 4096
_AUTHORITY = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/]*")
_TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary())


class Table(Source):
    """The images that one or several tables of the same columns name, one a row.

    `uri` is absolute, or relative to its table's folder. It is read as a URI (`a%20b.jpg` is the file `a b.jpg`), and
    characters that a URI can't have stand for themselves. A row without a URI is an image that is missing, so that it
    is accounted for; the second row of one URI gets the member `#2`. `labels`: a column, or "folder" for the first
    folder of a relative URI; a labels column named `label` becomes the row's own.
    In a CSV file, types are those of its first block; `uri` and the labels are text. A text file has one URI a line;
    blank lines are skipped, and there are no comments.
    """

    by_suffix = False

    def __init__(self, root: str, names: Sequence[str], labels: str | None, reserved: frozenset[str]):
        super().__init__(root, f"the table {root}/{names[0]}")
        self._store = open_store(root)
        self._names = list(names)
        self._labels = labels
        self._texts = {name: pa.string() for name in ("uri", labels) if name}
        with self._table(self._names[0]) as (schema, _):
            _check_columns(schema, labels, self._where(self._names[0]))
        own = {"uri", "label"} if labels == "label" else {"uri"}
        self.columns = [pa.field(field.name, field.type) for field in schema if field.name not in own]
        self._label_column = labels if labels in schema.names else None
        _check_clashes(self.columns, reserved, self._where(self._names[0]))

    def _list(self, after: ImageRef | None) -> Iterator[ImageRef]:
        yield from behind(numbered(self._rows()), after)

    def _rows(self) -> Iterator[ImageRef]:
        for name in self._names:
            with self._table(name) as (schema, batches):
                _check_same(self.columns, schema, self._where(self._names[0]), self._where(name))
                for batch in batches:
                    for row in batch.to_pylist():
                        yield self._image(dirname(name), row)

    def _image(self, folder: str, row: Mapping[str, Any]) -> ImageRef:
        uri = canonical(row["uri"] or "", folder)
        return ImageRef(uri, label=self._label(uri, row), columns={f.name: row[f.name] for f in self.columns})

    def _label(self, uri: str, row: Mapping[str, Any]) -> str | None:
        if self._label_column is not None:
            label = row[self._label_column]
            return None if label in (None, "") else str(label)
        return folder_label(uri) if self._labels and "://" not in uri and not uri.startswith("/") else None

    @contextmanager
    def _table(self, name: str) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        """The schema of a table and its rows, a batch at a time."""
        with _plain_errors(self._where(name)), self._store.open(name) as file:
            if suffix(name) == ".parquet":
                yield _read_parquet(file)
            elif suffix(name) == ".csv":
                yield _read_csv(file, {field.name: field.type for field in self.columns} | self._texts)
            else:
                yield _read_lines(file)

    def _where(self, name: str) -> str:
        return f"{self._store.url}/{name}"


def canonical(uri: str | bytes, folder: str = "") -> str:
    """A URI in its one percent-encoded form: absolute, or relative to what `folder` is relative to.

    Of `a b%20c%.jpg`, the form is `a%20b%20c%25.jpg`. "" stays "".
    """
    raw = uri.encode() if isinstance(uri, str) else uri
    authority = _AUTHORITY.match(raw)
    start = authority.end() if authority else 0
    path = quote(unquote_to_bytes(raw[start:]), safe="/=")
    if authority or path.startswith("/") or not path:
        return raw[:start].decode(errors="replace") + path
    return normpath(join(folder, path))


def _read_parquet(file: BinaryIO) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    table = pq.ParquetFile(file)
    batches = (_decoded(batch) for batch in table.iter_batches(_BATCH_ROWS))
    return _decoded(table.schema_arrow.empty_table()).schema, batches


def _decoded(rows: Any) -> Any:
    """A table or batch whose dictionary and extension columns are the plain values they stand for."""
    for place, field in enumerate(rows.schema):
        column = rows.column(place)
        if isinstance(field.type, pa.DictionaryType):
            column = column.cast(field.type.value_type)
        elif isinstance(field.type, pa.BaseExtensionType):
            column = column.cast(field.type.storage_type)
        rows = rows.set_column(place, field.with_type(column.type), column)
    return rows


def _read_csv(file: BinaryIO, types: Mapping[str, pa.DataType]) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """A first reader infers the types; columns that are empty in the first block are text."""
    inferred = {f.name: pa.string() if pa.types.is_null(f.type) else f.type for f in _open_csv(file, types).schema}
    file.seek(0)
    reader = _open_csv(file, inferred)
    return reader.schema, iter(reader)


def _open_csv(file: BinaryIO, types: Mapping[str, pa.DataType]) -> Any:
    return pyarrow.csv.open_csv(
        pa.PythonFile(file, mode="r"),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict(types)),
    )


def _read_lines(file: BinaryIO) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    if file.read(len(BOM_UTF8)) != BOM_UTF8:
        file.seek(0)
    schema = pa.schema([pa.field("uri", pa.binary())])
    lines = (line.rstrip(b"\r\n") for line in file)
    return schema, (pa.record_batch([[line]], schema=schema) for line in lines if line.strip())


@contextmanager
def _plain_errors(where: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, ValueError, OSError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        types = " (the first block sets a CSV column's type)" if where.lower().endswith(".csv") else ""
        raise SourceError(f"Can't read the table {where}: {reason}{types}; mend or convert it.") from error


def _check_columns(schema: pa.Schema, labels: str | None, where: str) -> None:
    names = schema.names
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise SourceError(f"{where} has the column {repeated[0]!r} more than once; rename one of them.")
    if "uri" not in names:
        raise SourceError(f"{where} has no column 'uri' with the images' places; {_offer('uri', names)}.")
    if schema.field("uri").type not in _TEXT_TYPES:
        raise SourceError(f"The column 'uri' of {where} holds {schema.field('uri').type}; it must be text.")
    if labels not in (None, "folder", *names):
        raise SourceError(f"{where} has no column {labels!r} for labels; {_offer(labels or '', names)}.", "labels")


def _offer(wanted: str, names: Sequence[str]) -> str:
    near = get_close_matches(wanted.lower(), names, n=1, cutoff=0.5)
    return f"it has {', '.join(map(repr, names))}" + (f", of which {near[0]!r} is nearest" if near else "")


def _check_clashes(columns: Sequence[pa.Field], reserved: frozenset[str], where: str) -> None:
    clashing = [field.name for field in columns if field.name in reserved]
    if clashing:
        use = ", or say labels: label" if "label" in clashing else ""
        raise SourceError(
            f"{where} has columns whose names the run's own rows need: {', '.join(clashing)}; rename them{use}."
        )


def _check_same(columns: Sequence[pa.Field], schema: pa.Schema, first: str, where: str) -> None:
    types = {field.name: field.type for field in schema}
    for name, kind in [("uri", None), *((field.name, field.type) for field in columns)]:
        if name not in types or (kind is not None and types[name] != kind):
            raise SourceError(
                f"The column {name!r} is {types.get(name, 'missing')} in {where} but not in {first}; "
                "tables that are read together need the same columns."
            )

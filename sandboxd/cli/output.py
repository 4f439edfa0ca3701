"""Everything that lists or inspects goes through here: `--format table|json|yaml|TEMPLATE`."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from sandboxd.cli.words import printable

Row = TypeVar("Row")
Document = Mapping[str, object]
_GAP = "   "
_PLAIN_YAML = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.@+-]*(?: [A-Za-z0-9_/.@+-]+)*\Z")
_YAML_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n", "~", "nan", "inf", "infinity"})


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column of a table."""

    heading: str
    cell: Callable[[Row], str]
    right: bool = False


def show(
    rows: Sequence[Row],
    columns: Sequence[Column[Row]],
    style: str,
    document: Callable[[Row], Document],
) -> None:
    """Prints `rows` in one of the four styles. JSON and YAML are lists."""
    if style in ("", "table"):
        put(table([[column.cell(row) for column in columns] for row in rows], columns))
    else:
        show_documents([document(row) for row in rows], style)


def show_documents(documents: Sequence[Document], style: str) -> None:
    """Prints as JSON, YAML or by template."""
    if style == "json":
        put(json.dumps(list(documents), indent=2) + "\n")
    elif style == "yaml":
        put("".join(yaml(list(documents))) or "[]\n")
    else:
        put(_templated(documents, style))


def _templated(documents: Sequence[Document], style: str) -> str:
    from sandboxd.cli.template import parse

    template = parse(style)
    lines = [template.render(document) for document in documents]
    if not template.table:
        return "".join(line + "\n" for line in lines)
    cells = [line.split("\t") for line in [template.headings(), *lines]]
    return _aligned(cells, [False] * max(map(len, cells)))


def table(cells: Sequence[Sequence[str]], columns: Sequence[Column[Any]]) -> str:
    """Headings and rows, three spaces between the columns. Cells lose their control characters."""
    safe = [[printable(cell) for cell in row] for row in cells]
    return _aligned([[column.heading for column in columns], *safe], [column.right for column in columns])


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    widths = [max(len(row[index]) for row in rows if index < len(row)) for index in range(len(right))]
    return "".join(
        _GAP.join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=False)
        ).rstrip()
        + "\n"
        for row in rows
    )


def document(record: Any) -> dict[str, object]:
    """A frozen record of the SDK as JSON has it: nested, times in ISO 8601."""
    return {key: _plain(value) for key, value in dataclasses.asdict(record).items()}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def yaml(value: object, indent: str = "") -> Iterable[str]:
    """YAML 1.2 in block style; every scalar that is not plainly a word is written as JSON, which YAML reads."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _yaml_item(f"{indent}{_yaml_scalar(str(key))}:", item, indent + "  ")
    elif isinstance(value, list | tuple) and value:
        for item in value:
            lines = list(yaml(item, indent + "  ")) if _is_block(item) else [f"{indent}  {_yaml_scalar(item)}\n"]
            yield f"{indent}- {lines[0][len(indent) + 2 :]}"
            yield from lines[1:]
    else:
        yield f"{indent}{_yaml_scalar(value)}\n"


def _yaml_item(head: str, item: object, indent: str) -> Iterable[str]:
    if _is_block(item):
        yield head + "\n"
        yield from yaml(item, indent)
    else:
        yield f"{head} {_yaml_scalar(item)}\n"


def _is_block(value: object) -> bool:
    return isinstance(value, Mapping | list | tuple) and bool(value)


def _yaml_scalar(value: object) -> str:
    if isinstance(value, str) and _PLAIN_YAML.match(value) and value.lower() not in _YAML_WORDS:
        return value
    return json.dumps(value)


def put(text: str) -> None:
    """To standard output."""
    sys.stdout.write(text)

"""`--format '{{.name}} {{.exit.reason}}'`: docker's templates, as far as people use them.

{{.key}}  {{.key.inner}}   a field, whatever its capitals and underscores: {{.ImageID}} is image_id
{{json .key}}  {{json .}}  as JSON          {{upper .key}} {{lower .key}} {{len .key}}
{{join .key ", "}}         a list in one string
\\t \\n                      a tab, a new line; `table ` in front prints headings and columns
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sandboxd.base.errors import UNKNOWN_FIELD, SandboxdError
from sandboxd.client.options import refusal

_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_CALL = re.compile(r'(?:(?P<verb>[a-z]+)\s+)?(?P<path>\.[\w.\-/]*)(?:\s+"(?P<text>(?:[^"\\]|\\.)*)")?\Z')
_ALIASES = {"names": "name", "containerid": "id", "runningfor": "createdat", "size": "sizebytes", "tag": "references"}


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: pieces of text and of expressions."""

    pieces: tuple[str | Expression, ...]
    table: bool

    def render(self, row: Mapping[str, object]) -> str:
        return "".join(piece if isinstance(piece, str) else piece.render(row) for piece in self.pieces)

    def headings(self) -> str:
        return "".join(piece if isinstance(piece, str) else piece.heading for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Expression:
    verb: str
    path: tuple[str, ...]
    text: str

    @property
    def heading(self) -> str:
        return " ".join(self.path[-1:]).replace("_", " ").upper()

    def render(self, row: Mapping[str, object]) -> str:
        value: object = row
        for name in self.path:
            value = _look_up(value, name)
        return _VERBS[self.verb](value, self.text)


def parse(text: str) -> Template:
    """Errors: invalid_argument."""
    table = text.startswith("table ")
    body = _unescaped(text.removeprefix("table ") if table else text)
    pieces: list[str | Expression] = []
    end = 0
    for match in _ACTION.finditer(body):
        pieces += [body[end : match.start()], _expression(match[1], text)]
        end = match.end()
    pieces.append(body[end:])
    if "{{" in "".join(piece for piece in pieces if isinstance(piece, str)):
        raise _refused(text, "a {{ has no }}")
    return Template(tuple(piece for piece in pieces if piece != ""), table)


def _expression(source: str, template: str) -> Expression:
    match = _CALL.match(source)
    if not match or (match["verb"] or "") not in _VERBS:
        raise _refused(
            template, f"{{{{{source}}}}} is neither {{{{.key}}}} nor one of {', '.join(filter(None, _VERBS))}"
        )
    return Expression(
        match["verb"] or "",
        tuple(part for part in match["path"].split(".") if part),
        _unescaped(match["text"] if match["text"] is not None else ","),
    )


def _look_up(value: object, name: str) -> object:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise _unknown(name, ())
    if name in value:
        return value[name]
    keys = {_folded(str(key)): key for key in value}
    folded = _folded(name)
    key = keys.get(folded, keys.get(_ALIASES.get(folded, "")))
    if key is None:
        raise _unknown(name, tuple(str(key) for key in value))
    return value[key]


def _folded(name: str) -> str:
    return name.replace("_", "").lower()


def _plain(value: object, text: str = ",") -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return text.join(_plain(item) for item in value)
    return json.dumps(value) if isinstance(value, Mapping) else str(value)


def _length(value: object, _: str) -> str:
    return str(len(value)) if isinstance(value, str | list | tuple | Mapping) else "0"


_VERBS: dict[str, Callable[[object, str], str]] = {
    "": _plain,
    "json": lambda value, _: json.dumps(value),
    "join": _plain,
    "upper": lambda value, text: _plain(value, text).upper(),
    "lower": lambda value, text: _plain(value, text).lower(),
    "len": _length,
}


def _unescaped(text: str) -> str:
    return text.replace("\\t", "\t").replace("\\n", "\n").replace('\\"', '"')


def _unknown(name: str, keys: tuple[str, ...]) -> SandboxdError:
    near = difflib.get_close_matches(name.lower(), keys, n=1, cutoff=0)
    return SandboxdError(UNKNOWN_FIELD, field=name, nearest="".join(near) or "none", fields=", ".join(keys) or "none")


def _refused(text: str, reason: str) -> SandboxdError:
    return refusal("--format", text, reason, "ps")

"""What the specification's records have in common: bounded words, camelCase names, frozen values."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

WORD_MAX = 4096
"""Of one path, option or name. The kernel's PATH_MAX."""
TEXT_MAX = 128 * 1024
"""Of one argument or environment entry. The kernel's MAX_ARG_STRLEN."""
LIST_MAX = 4096

Word = Annotated[str, StringConstraints(max_length=WORD_MAX, pattern=r"^[^\x00]*$")]
Text = Annotated[str, StringConstraints(max_length=TEXT_MAX, pattern=r"^[^\x00]*$")]
U32 = Annotated[int, Field(ge=0, lt=1 << 32, strict=True)]
U64 = Annotated[int, Field(ge=0, lt=1 << 64, strict=True)]
I64 = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63, strict=True)]
FileMode = Annotated[int, Field(ge=0, le=0o7777, strict=True)]
Device = Annotated[int, Field(ge=-1, lt=1 << 32, strict=True)]


class Record(BaseModel):
    """Unknown properties are passed over: runtimes MUST NOT fail on them (config.md, "Extensibility"). Unknown *values*
    are errors.

    Validators are built when the outermost record first is (defer_build): a shim pays for one schema, not for forty.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, defer_build=True)

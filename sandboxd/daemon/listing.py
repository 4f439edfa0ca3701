"""Which sandboxes a list shows: docker's filters. Values of one key are alternatives, keys must all agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sandboxd.base.errors import INVALID_ARGUMENT, SandboxdError
from sandboxd.core.lifecycle import State
from sandboxd.daemon.records import SandboxRecord
from sandboxd.daemon.request import shown

FILTERS_MAX = 64
_KEYS = ("name", "status", "label", "id", "ancestor", "exited")
_STATUS_WORDS = {"exited": "stopped", **{state.value: state.value for state in State}}

Filters = dict[str, set[str]]


def parse_filters(filters: Sequence[str], labels: Mapping[str, str]) -> Filters:
    """Raises invalid_argument. `labels` are one more way to say `label=`."""
    parsed: Filters = {}
    items = [*filters, *(f"label={key}={value}" if value else f"label={key}" for key, value in labels.items())]
    if len(items) > FILTERS_MAX:
        raise _refused(str(len(items)), f"At most {FILTERS_MAX} filters are taken.")
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or key not in _KEYS:
            raise _refused(item, f"Filters read KEY=VALUE with KEY one of {', '.join(_KEYS)}.")
        if key == "status":
            if value not in _STATUS_WORDS:
                raise _refused(item, f"A status is one of {', '.join(_STATUS_WORDS)}.")
            value = _STATUS_WORDS[value]
        parsed.setdefault(key, set()).add(value)
    return parsed


def matches(record: SandboxRecord, filters: Filters) -> bool:
    return all(_matches(record, key, values) for key, values in filters.items())


def _matches(record: SandboxRecord, key: str, values: set[str]) -> bool:
    if key == "name":
        return any(value in record.name for value in values)
    if key == "id":
        return any(record.id.startswith(value) for value in values)
    if key == "status":
        return record.state.value in values
    if key == "exited":
        return record.exit is not None and not record.alive and str(record.exit.exit_status) in values
    if key == "ancestor":
        return record.image_id in values or record.parsed_config().image in values
    # Labels must all be there, unlike everything else: docker has it so.
    labels = record.parsed_config().labels
    return all(_has_label(labels, value) for value in values)


def _has_label(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _refused(value: str, reason: str) -> SandboxdError:
    return SandboxdError(INVALID_ARGUMENT, what="filter", value=shown(value), reason=reason, command="ps")

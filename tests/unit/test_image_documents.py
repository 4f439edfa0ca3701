"""Manifests, indexes and configs: what is accepted, what is chosen, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.base.errors import SandboxdError
from sandboxd.image.manifest import (
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCUMENT_MAX_BYTES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Index,
    Manifest,
    Platform,
    choose,
    parse_config,
    parse_manifest,
    parse_platform,
    require_platform,
)

DIGEST = "sha256:" + "ab" * 32
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def manifest(**changes: Any) -> bytes:
    config = {"mediaType": OCI_CONFIG, "digest": DIGEST, "size": 10}
    layers = [{"mediaType": LAYER, "digest": DIGEST, "size": 20}]
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers, **changes}
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def index(*platforms: dict[str, str] | None, media_type: str | None = OCI_INDEX) -> bytes:
    entries = []
    for number, platform in enumerate(platforms):
        entry: dict[str, Any] = {"mediaType": OCI_MANIFEST, "digest": "sha256:" + f"{number:064x}", "size": 1}
        entries.append(entry if platform is None else {**entry, "platform": platform})
    document: dict[str, Any] = {"schemaVersion": 2, "manifests": entries}
    return json.dumps({**document, "mediaType": media_type} if media_type else document).encode()


def config(**changes: Any) -> bytes:
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [DIGEST]}, **changes}
    return json.dumps(document).encode()


def code(work: Any, *arguments: Any) -> tuple[str, str]:
    with pytest.raises(SandboxdError) as caught:
        work(*arguments)
    assert caught.value.remedy
    return caught.value.kind.code, caught.value.cause


def test_both_families_and_a_missing_media_type() -> None:
    docker = {"mediaType": DOCKER_CONFIG, "digest": DIGEST, "size": 10}
    for data in (manifest(), manifest(mediaType=None), manifest(mediaType=DOCKER_MANIFEST, config=docker)):
        assert isinstance(parse_manifest("x", data), Manifest)
    for media_type in (OCI_INDEX, DOCKER_LIST, None):
        assert isinstance(parse_manifest("x", index(media_type=media_type)), Index)


@pytest.mark.parametrize(
    ("data", "expected", "words"),
    [
        (b'{"schemaVersion": 1, "fsLayers": []}', "image_unsupported_media_type", "schema version 1"),
        (manifest(mediaType="application/x-artifact"), "image_unsupported_media_type", "application/x-artifact"),
        (
            manifest(layers=[{"mediaType": LAYER + "+encrypted", "digest": DIGEST, "size": 1}]),
            *("image_unsupported_media_type", "encrypted"),
        ),
        (
            manifest(config={"mediaType": "application/vnd.helm", "digest": DIGEST, "size": 1}),
            *("image_unsupported_media_type", "helm"),
        ),
        (b"not json", "image_manifest_invalid", ""),
        (b"[]", "image_manifest_invalid", ""),
        (b'{"schemaVersion": 2}', "image_unsupported_media_type", ""),
        (manifest(layers=None), "image_manifest_invalid", "layers"),
        (manifest(layers="x"), "image_manifest_invalid", "layers"),
        (
            manifest(layers=[{"mediaType": LAYER, "digest": "sha256:../../etc/passwd", "size": 1}]),
            *("image_manifest_invalid", "layers.0.digest"),
        ),
        (
            manifest(layers=[{"mediaType": LAYER, "digest": DIGEST, "size": -1}]),
            *("image_manifest_invalid", "layers.0.size"),
        ),
        (
            manifest(layers=[{"mediaType": LAYER, "digest": DIGEST, "size": 1}] * 600),
            *("image_manifest_invalid", "layers"),
        ),
        (b" " * (DOCUMENT_MAX_BYTES + 1), "image_manifest_invalid", str(DOCUMENT_MAX_BYTES)),
    ],
    ids=lambda value: value[:30].decode("latin-1").strip() if isinstance(value, bytes) else None,
)
def test_refused_manifests(data: bytes, expected: str, words: str) -> None:
    if data == b'{"schemaVersion": 2}':
        expected = "image_manifest_invalid"
    found, cause = code(parse_manifest, "x", data)
    assert found == expected and words in cause


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_noise_is_refused_by_name(data: bytes) -> None:
    assert code(parse_manifest, "x", data)[0] in ("image_manifest_invalid", "image_unsupported_media_type")


AMD64 = {"os": "linux", "architecture": "amd64"}
ARM64 = {"os": "linux", "architecture": "arm64"}


@pytest.mark.parametrize(
    ("platforms", "wanted", "position"),
    [
        ([ARM64, AMD64], "linux/amd64", 1),
        ([{**AMD64, "variant": "v3"}, AMD64], "linux/amd64", 1),
        ([{**AMD64, "variant": "v3"}, AMD64], "linux/amd64/v3", 0),
        ([AMD64, {**ARM64, "variant": "v8"}], "linux/arm64", 1),
        ([{**AMD64, "os": "windows"}, AMD64], "amd64", 1),
        ([{"os": "unknown", "architecture": "unknown"}, AMD64], "linux/amd64", 1),
        ([None], "linux/amd64", 0),
    ],
)
def test_choice(platforms: list[dict[str, str] | None], wanted: str, position: int) -> None:
    parsed = parse_manifest("x", index(*platforms))
    assert isinstance(parsed, Index)
    assert choose("x", parsed, parse_platform(wanted)) == parsed.manifests[position]


def test_no_choice_names_what_there_is() -> None:
    parsed = parse_manifest("x", index(ARM64, {**AMD64, "os": "windows"}, {**AMD64, "variant": "v3"}))
    found, cause = code(choose, "x", parsed, Platform("linux", "amd64"))
    assert found == "image_wrong_architecture"
    assert "linux/arm64" in cause and "windows/amd64" in cause and "linux/amd64/v3" in cause


@pytest.mark.parametrize("text", ["linux/", "a/b/c/d", "linux/amd64;rm", "../x", "linux amd64"])
def test_bad_platforms(text: str) -> None:
    assert code(parse_platform, text)[0] == "invalid_argument"


def test_config() -> None:
    process: dict[str, Any] = {
        "Entrypoint": None,
        "Cmd": ["sh"],
        "Volumes": {"/data": {}},
        "ExposedPorts": {"80/tcp": {}},
    }
    parsed = parse_config("x", config(config=process, created="2024-02-03T04:05:06.123456789Z"), 1)
    assert parsed.process.Cmd == ["sh"] and list(parsed.process.Volumes or ()) == ["/data"]
    assert parsed.created_unix_ns() // 10**6 == 1_706_933_106_123
    assert parse_config("x", config(config=None), 1).process.Cmd is None
    for created in (None, "", "yesterday", "2024-02-03T04:05:06"):
        assert parse_config("x", config(created=created), 1).created_unix_ns() == 0


@pytest.mark.parametrize(
    "data",
    [
        config(rootfs={"type": "layers", "diff_ids": [DIGEST, DIGEST]}),
        config(rootfs={"type": "layers", "diff_ids": ["md5:x"]}),
        config(rootfs=None),
        config(architecture=5),
        config(config={"Cmd": "sh"}),
        config(config={"Env": [1]}),
        b"{}",
    ],
    ids=["layers", "diff_id", "rootfs", "architecture", "cmd", "env", "empty"],
)
def test_refused_configs(data: bytes) -> None:
    assert code(parse_config, "x", data, 1)[0] == "image_manifest_invalid"


def test_another_architecture_or_system() -> None:
    for changes in ({"architecture": "arm64"}, {"os": "windows"}):
        parsed = parse_config("x", config(**changes), 1)
        assert code(require_platform, "x", parsed, Platform("linux", "amd64"))[0] == "image_wrong_architecture"

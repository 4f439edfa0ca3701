"""Image references: docker's grammar, and where a name without a host leads."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.base.errors import SandboxdError
from sandboxd.image.reference import is_loopback, parse_reference
from sandboxd.image.registries import RegistrySettings

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "host", "path", "tag", "digest"),
    [
        ("busybox", "", "busybox", "latest", ""),
        ("busybox:1.36", "", "busybox", "1.36", ""),
        ("team/app", "", "team/app", "latest", ""),
        ("localhost/app", "localhost", "app", "latest", ""),
        ("localhost:5000/app:x", "localhost:5000", "app", "x", ""),
        ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000", "a/b/c", "latest", ""),
        ("[::1]:5000/app", "[::1]:5000", "app", "latest", ""),
        ("registry.example/app@" + DIGEST, "registry.example", "app", "", DIGEST),
        ("registry.example/app:v1@" + DIGEST, "registry.example", "app", "v1", DIGEST),
        ("a.b-c__d/e", "a.b-c__d", "e", "latest", ""),
        ("UPPER/app", "UPPER", "app", "latest", ""),
    ],
)
def test_parts(text: str, host: str, path: str, tag: str, digest: str) -> None:
    if text.startswith("a.b"):
        with pytest.raises(SandboxdError):  # an underscore is no part of a host name
            parse_reference(text)
        return
    reference = parse_reference(text)
    assert (reference.host, reference.path, reference.tag, reference.digest) == (host, path, tag, digest)
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "@", "/", "a//b", "/a", "a/", "App", "a:", "a:.x", "a:" + "x" * 129, "a b", "a\n", "a\0"),
        *("a@sha256:abc", "a@md5:" + "0" * 32, "a@" + DIGEST.upper(), "-a", "a..b", "../a", "a/../b", "x" * 300),
        *("host:0/a", "host:99999/a", "host:/a", "-host.x/a", "--help", "oci:x/y:z/w", "docker://a"),
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(SandboxdError) as caught:
        parse_reference(text)
    assert caught.value.kind.code == "image_reference_invalid"
    assert caught.value.remedy and caught.value.cause


@given(st.text(max_size=80))
def test_anything_is_parsed_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except SandboxdError:
        return
    assert parse_reference(str(reference)) == reference
    assert not set(str(reference)) & set(" \t\n\0'\"\\$;")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *(("127.0.0.1:5000", True), ("127.9.9.9", True), ("localhost", True), ("localhost:1", True)),
        *(("[::1]:5000", True), ("registry.example", False), ("127.0.0.1.evil.example", False), ("10.0.0.1", False)),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_no_registry_configured_says_how_to_configure_one() -> None:
    with pytest.raises(SandboxdError) as caught:
        RegistrySettings().locate(parse_reference("busybox"))
    assert caught.value.kind.code == "image_no_registry"
    assert "default_registry" in caught.value.remedy and "HOST/busybox" in caught.value.remedy


@pytest.mark.parametrize("default", ["registry.example", "registry.example/library", "127.0.0.1:5000/a/b"])
def test_default_registry_and_back(default: str) -> None:
    settings = RegistrySettings(default_registry=default)
    short = parse_reference("busybox:1")
    located = settings.locate(short)
    assert str(located) == f"{default}/busybox:1"
    assert settings.familiar(located) == short
    other = parse_reference("other.example/busybox:1")
    assert settings.familiar(settings.locate(other)) == other


def test_registries_conf_holds_mirrors_in_order_and_who_may_be_insecure() -> None:
    settings = RegistrySettings(
        mirrors={"registry.example": ["127.0.0.1:5000/mirror", "second.example"]}, insecure=["second.example"]
    )
    document = tomllib.loads(settings.render("registry.example"))
    (registry,) = document["registry"]
    assert registry["location"] == "registry.example" and registry["insecure"] is False
    assert registry["mirror"] == [
        {"location": "127.0.0.1:5000/mirror", "insecure": True},
        {"location": "second.example", "insecure": True},
    ]
    assert tomllib.loads(settings.render("third.example"))["registry"][0].get("mirror") is None

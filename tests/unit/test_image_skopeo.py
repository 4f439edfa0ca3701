"""What skopeo says, and what is made of it; the texts are skopeo's own (1.9.3), shortened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sandboxd.image.reference import parse_reference
from sandboxd.image.skopeo_errors import explain

REFERENCE = parse_reference("registry.example:5000/team/app:v1")
FATAL = 'time="2024-01-01T00:00:00Z" level=fatal msg="Error parsing image name \\"docker://x\\": {}"'


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("reading manifest v1 in x: manifest unknown: manifest unknown", "image_unknown"),
        ("reading manifest v1 in x: name unknown: repository name not known to registry", "image_unknown"),
        ("unable to retrieve auth token: invalid username/password: unauthorized", "registry_authentication"),
        ("reading manifest v1: unauthorized: authentication required", "registry_authentication"),
        ("requested access to the resource is denied", "registry_authentication"),
        (
            'pinging container registry x: Get \\"https://x/v2/\\": dial tcp 1.2.3.4:5000: connect: connection refused',
            "registry_unreachable",
        ),
        (
            'pinging container registry x: Get \\"https://x/v2/\\": dial tcp: lookup x: no such host',
            "registry_unreachable",
        ),
        ('Get \\"https://x/v2/\\": dial tcp 1.2.3.4:443: i/o timeout', "registry_unreachable"),
        ('Get \\"https://x/v2/\\": x509: certificate signed by unknown authority', "registry_tls"),
        ('Get \\"https://x/v2/\\": http: server gave HTTP response to HTTPS client', "registry_tls"),
        ("writing blob: storing blob to file /tmp/x: happened during read: unexpected EOF", "image_truncated"),
        (
            f"Digest did not match, expected sha256:{'a' * 64}, got sha256:{'b' * 64}",
            "image_digest_mismatch",
        ),
        ("writing blob: write /x/oci-put-blob1: no space left on device", "image_no_space"),
        ("Source image rejected: Running image docker://x is rejected by policy.", "registry_authentication"),
    ],
)
def test_rows(said: str, code: str) -> None:
    error = explain(FATAL.format(said), REFERENCE, Path("/store/staging/tmp1"))
    assert error is not None and error.kind.code == code
    assert error.message and error.cause and error.remedy
    assert "level=fatal" not in error.cause and '\\"' not in error.cause
    if code == "image_digest_mismatch":
        assert error.context["expected"] == "sha256:" + "a" * 64 and error.context["actual"] == "sha256:" + "b" * 64


def test_unheard_of_words_are_not_guessed_at() -> None:
    assert explain(FATAL.format("the moon is full"), REFERENCE, Path("/x/y/z")) is None
    assert explain("", REFERENCE, Path("/x/y/z")) is None


def test_the_unpacker_is_on_a_diet() -> None:
    """It starts for every image, and reads what strangers wrote."""
    program = "import sys, sandboxd.image.unpack; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert not {"pydantic", "sqlite3", "asyncio", "grpc", "google.protobuf", "ctypes", "tarfile"} & set(loaded)

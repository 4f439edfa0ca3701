"""Makes an OCI layout with one image: Debian's busybox-static and the few files a shell wants. No registry, no network.

    python3 images/busybox/build.py OUT [--busybox /bin/busybox] [--tag busybox:latest]

Standard library only. The same busybox gives the same digests: times are 0, order is by name.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64", "ppc64le": "ppc64le", "s390x": "s390x"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DIRECTORIES = {
    **dict.fromkeys(("bin", "dev", "etc", "home", "mnt", "opt", "proc", "run", "sbin", "srv", "sys", "usr"), 0o755),
    **dict.fromkeys(("usr/bin", "usr/sbin", "usr/share", "var", "var/log", "var/spool", "var/www"), 0o755),
    "root": 0o700,
    "tmp": 0o1777,
    "var/tmp": 0o1777,
}
FILES = {
    "etc/passwd": """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
bin:x:2:2:bin:/bin:/bin/false
sys:x:3:3:sys:/dev:/bin/false
mail:x:8:8:mail:/var/spool/mail:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
""",
    "etc/group": """\
root:x:0:
daemon:x:1:
bin:x:2:
sys:x:3:
tty:x:5:
disk:x:6:
mail:x:8:
wheel:x:10:root
utmp:x:43:
www-data:x:33:
users:x:100:
nogroup:x:65534:
""",
    "etc/shadow": "root:*::0:::::\nnobody:*::0:::::\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost\n",
    "etc/resolv.conf": "",
    "etc/profile": f"export PATH={PATH}\n",
}
LINKS = {"var/run": "../run", "etc/mtab": "/proc/mounts"}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path, help="directory to make; replaced if it is there")
    arguments.add_argument("--busybox", type=Path, default=Path("/bin/busybox"), help="a static busybox")
    arguments.add_argument("--tag", default="busybox:latest")
    given = arguments.parse_args()
    print(build(given.out, given.busybox, given.tag))


def build(out: Path, busybox: Path = Path("/bin/busybox"), tag: str = "busybox:latest") -> str:
    """Writes the layout, complete or not at all; answers the manifest's digest."""
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "blobs" / "sha256").mkdir(parents=True)
    digest = _write_layout(partial, _layer(busybox), tag)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return digest


def _layer(busybox: Path) -> bytes:
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    program = busybox.read_bytes()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, mode in sorted(DIRECTORIES.items()):
            _add(tar, name, tarfile.DIRTYPE, mode)
        _add(tar, "bin/busybox", tarfile.REGTYPE, 0o755, program)
        # Hard links: one file whatever an applet is called, and none of them dangles when another is removed.
        for applet in sorted(set(applets) - {"busybox"}):
            _add(tar, f"bin/{applet}", tarfile.LNKTYPE, 0o755, link="bin/busybox")
        for name, link in sorted({**LINKS, "usr/bin/env": "../../bin/env"}.items()):
            _add(tar, name, tarfile.SYMTYPE, 0o777, link=link)
        for name, text in sorted(FILES.items()):
            _add(tar, name, tarfile.REGTYPE, 0o600 if name == "etc/shadow" else 0o644, text.encode())
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(data), link
    tar.addfile(entry, io.BytesIO(data))


def _write_layout(out: Path, layer: bytes, tag: str) -> str:
    machine = os.uname().machine
    config = {
        "architecture": MACHINES.get(machine, machine),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Env": [f"PATH={PATH}"], "Cmd": ["sh"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "images/busybox"}],
    }
    oci = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{oci}.manifest.v1+json",
        "config": _blob(out, f"{oci}.config.v1+json", _json(config)),
        "layers": [_blob(out, f"{oci}.layer.v1.tar+gzip", gzip.compress(layer, 9, mtime=0))],
    }
    descriptor = _blob(out, f"{oci}.manifest.v1+json", _json(manifest))
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
    index = {"schemaVersion": 2, "mediaType": f"{oci}.index.v1+json", "manifests": [descriptor]}
    (out / "index.json").write_bytes(_json(index))
    (out / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return str(descriptor["digest"])


def _blob(out: Path, media_type: str, data: bytes) -> dict[str, object]:
    digest = _digest(data)
    (out / "blobs" / digest.replace(":", "/")).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


if __name__ == "__main__":
    main()

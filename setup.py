"""What pyproject.toml cannot say: the C parts. The guest's agent is built into the wheel; cffi modules are compiled."""

from __future__ import annotations

import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CFFI_BUILDERS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "sandboxd" / "linux").glob("_build_*.py"))


class BuildWithAgent(build_py):
    """Compiles the agent first, so that package-data finds it."""

    def run(self) -> None:
        subprocess.run(["make", "-s", "-C", str(ROOT / "images" / "agent"), "install"], check=True)
        super().run()


setup(cmdclass={"build_py": BuildWithAgent}, cffi_modules=[f"{path}:ffibuilder" for path in CFFI_BUILDERS])

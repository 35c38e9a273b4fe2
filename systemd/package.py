"""Builds the package from which a line PC without a network is installed: a folder, and its .tar.gz.

    heatline-0.1.0-linux-x86_64-cp313/
      README.txt  install.sh  docs/  systemd/
      target            the target machine of the wheels, in lines that a shell reads
      requirements.txt  every package with its version and its sha256
      SHA256SUMS        the sha256 of every other file
      wheels/           heatline, its dependencies, and pip to install them with
      share/            units, their user and folders, heatline-rollback, a small bundle to test the installation with

`make package` runs it; it needs the network. Downloaded wheels stay in OUT/wheels.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BRIDGES = sorted(each.name for each in HERE.glob("heatline-*@.service"))
SHARED = ("heatline@.service", *BRIDGES, "heatline.sysusers", "heatline.tmpfiles", "rollback.sh")
EXTRAS = "rtsp", "view", "mqtt", "opcua"
REHEARSAL = ROOT / "examples" / "drawn_boards" / "bundle"
OLD_MANYLINUX = {"1": (2, 5), "2010": (2, 12), "2014": (2, 17)}
BYTE_CODE = 1.25  # size of an installation divided by the unpacked size of its wheels: .pyc files are added
ABOUT_TARGET = """
import json, sys, sysconfig
print(json.dumps([
    sys.implementation.name, "%d.%d" % sys.version_info[:2], sysconfig.get_platform(),
]))
"""
README = """heatline {version} for a Linux PC ({machine}, glibc {glibc} or newer) with Python {python}.
Installing it needs no network.

    sh install.sh           as root: installs it beside other versions, and activates it
    sh install.sh --help    lists the options
    heatline-rollback       later, as root: activates the former version again

docs/line-pc.md describes all steps, from the empty PC to the first verdict.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the package that line PCs are installed from.")
    parser.add_argument("--python", default="/usr/bin/python3", help="a Python as on the line PC [%(default)s]")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder to write the package to [%(default)s]")
    arguments = parser.parse_args()
    try:
        folder = build(arguments.python, arguments.out.resolve())
    except subprocess.CalledProcessError as error:
        sys.exit(f"package: `{' '.join(map(str, error.cmd[:6]))} ...` failed, see above; nothing was packed")
    archive = pack(folder)
    print(f"{folder}\n{archive}\nsha256 of the archive, to compare on the line PC:\n{sha256(archive)}")


def build(python: str, out: Path, *, newest: bool = True) -> Path:
    """Build the package's folder, in place of an older one, and return it.

    Args:
        newest: False: take the wheels that were downloaded earlier, if they are all that is needed.
    Raises:
        subprocess.CalledProcessError: pip failed, and has printed the reason.
    """
    found = subprocess.run([python, "-c", ABOUT_TARGET], stdout=subprocess.PIPE, check=True, text=True)
    implementation, version, platform = json.loads(found.stdout)
    if implementation != "cpython" or not platform.startswith("linux-"):
        sys.exit(f"package: {python} is {implementation} on {platform}; name a CPython on Linux, as on the line PC")
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix=".package-") as temporary:
        folder = Path(temporary, "package")
        (folder / "wheels").mkdir(parents=True)
        print_progress("making heatline's own wheel")
        wheel = own_wheel(ROOT, Path(temporary, "own"))
        print_progress(f"downloading wheels for {python}, Python {version}; those in {out / 'wheels'} are used again")
        for each in wheels_for(python, wheel, out / "wheels", newest=newest):
            shutil.copy(each, folder / "wheels")
        for name in SHARED:
            copy(HERE / name, folder / "share" / name)
        copy(HERE / "install.sh", folder / "install.sh")
        shutil.copytree(REHEARSAL, folder / "share" / "rehearsal.bundle")
        for document in [*(ROOT / "docs").glob("*.*"), HERE / "README.md"]:
            copy(document, folder / document.relative_to(ROOT))  # links between documents still work
        seal(folder, python=version, machine=platform.removeprefix("linux-"))
        name = f"heatline-{version_of(wheel)}-{platform}-cp{version.replace('.', '')}"
        shutil.rmtree(out / name, ignore_errors=True)
        folder.rename(out / name)
    return out / name


def own_wheel(source: Path, into: Path) -> Path:
    """Make heatline's wheel from the sources in a folder, and return it."""
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", into, source)
    return next(into.glob("heatline-*.whl"))


def wheels_for(python: str, wheel: Path, downloads: Path, *, newest: bool = True) -> list[Path]:
    """Return heatline's wheel, the wheels that it and its `EXTRAS` need on that Python, and pip.

    Args:
        downloads: folder of downloaded wheels. Missing wheels are downloaded to it.
        newest: False: ask no index if that folder has all that is needed.
    """
    for earlier in downloads.glob("heatline-*.whl"):  # pip would take from it what this one needs
        earlier.unlink()
    wanted: list[str | Path] = ["--only-binary", ":all:", f"heatline[{','.join(EXTRAS)}] @ {wheel.as_uri()}", "pip"]
    if newest:
        pip("download", "--dest", downloads, *wanted, python=python)
    with TemporaryDirectory() as temporary:
        report = Path(temporary, "report.json")
        offline: list[str | Path] = ["--no-index", "--find-links", downloads]
        report_only: list[str | Path] = ["--dry-run", "--ignore-installed", "--quiet", "--report", report]
        try:
            pip("install", *report_only, *offline, *wanted, python=python)
        except subprocess.CalledProcessError:
            if newest:
                raise
            return wheels_for(python, wheel, downloads)
        found = json.loads(report.read_text())["install"]
    return [Path(unquote(urlsplit(each["download_info"]["url"]).path)) for each in found]


def pip(command: str, *options: str | Path, python: str = sys.executable) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, command, *options],
        check=True, stdout=sys.stderr,
    )  # fmt: skip


def seal(folder: Path, python: str, machine: str) -> None:
    """Write the files that describe the others: target, README.txt, requirements.txt and SHA256SUMS."""
    wheels = sorted((folder / "wheels").glob("*.whl"))
    own = next(each for each in wheels if each.name.startswith("heatline-"))
    target = {
        "version": version_of(own),
        "python": python,
        "machine": machine,
        "glibc": ".".join(map(str, max(map(glibc_of, wheels)))),
        "size_mib": str(round(sum(map(unpacked_bytes, wheels)) * BYTE_CODE / 2**20)),
    }
    write(folder / "target", "".join(f"{name}={value}\n" for name, value in target.items()))
    write(folder / "README.txt", README.format(**target))
    # pip itself runs from its wheel and is not installed.
    write(folder / "requirements.txt", "".join(map(requirement, (each for each in wheels if each.name[:4] != "pip-"))))
    files = sorted(each for each in folder.rglob("*") if each.is_file() and each.name != "SHA256SUMS")
    write(folder / "SHA256SUMS", "".join(f"{sha256(each)}  {each.relative_to(folder)}\n" for each in files))


def requirement(wheel: Path) -> str:
    name, version = wheel.name.split("-")[:2]
    return f"{name}=={version} --hash=sha256:{sha256(wheel)}\n"


def version_of(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def glibc_of(wheel: Path) -> tuple[int, int]:
    """Return the oldest glibc that a wheel works with, from its name; (0, 0) for one that needs none."""
    versions = {(int(major), int(minor)) for major, minor in re.findall(r"manylinux_(\d+)_(\d+)_", wheel.name)}
    versions |= {OLD_MANYLINUX[old] for old in re.findall(r"manylinux(1|2010|2014)_", wheel.name)}
    return min(versions, default=(0, 0))


def unpacked_bytes(wheel: Path) -> int:
    with zipfile.ZipFile(wheel) as archive:
        return sum(each.file_size for each in archive.infolist())


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack(folder: Path) -> Path:
    """Pack a folder as a .tar.gz beside it, in which all files belong to root. Return the archive."""

    def of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    print_progress("packing")
    archive = folder.with_name(f"{folder.name}.tar.gz")
    partial = archive.with_name(f".{archive.name}.partial")
    with tarfile.open(partial, "w:gz", compresslevel=1) as tar:  # wheels are already compressed
        tar.add(folder, folder.name, filter=of_root)
    return partial.rename(archive)


def copy(source: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to)


def write(path: Path, text: str) -> None:
    path.write_text(text)


def print_progress(step: str) -> None:
    print(f"package: {step}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

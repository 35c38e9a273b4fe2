"""Builds the package that line PCs are installed from, and the package of a later version."""

import importlib.util
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[3]
LINE_PCS_PYTHON = "/usr/bin/python3"
NEXT_VERSION = "99.0.0"


def build_package(out: Path) -> Path:
    """Build the package as `make package` does, but with the wheels in `out` if they are all that is needed."""
    return Path(_package().build(LINE_PCS_PYTHON, out, newest=False))


def build_next_package(package: Path, into: Path) -> Path:
    """Make the package of a later version of heatline from a package.

    Its heatline is complete, and so is msgspec, whose library shows which version a process runs. Its other wheels only
    point to the installed packages of the former version.
    """
    made = Path(shutil.copytree(package, into / "package", ignore=shutil.ignore_patterns("wheels")))
    (made / "wheels").mkdir()
    target = dict(line.split("=", 1) for line in (package / "target").read_text().splitlines())
    former = f"/opt/heatline/{target['version']}/lib/python{target['python']}/site-packages"
    for wheel in (package / "wheels").iterdir():
        name = wheel.name.split("-")[0]
        if name in ("pip", "msgspec"):
            shutil.copy(wheel, made / "wheels")
        elif name == "heatline":
            _write_next_version(wheel, made / "wheels")
        else:
            _write_pointer(wheel, former, made / "wheels")
    _package().seal(made, python=target["python"], machine=target["machine"])
    return made


def _write_next_version(wheel: Path, into: Path) -> None:
    """Write heatline's wheel with the later version."""
    former, later = "-".join(wheel.name.split("-")[:2]), f"heatline-{NEXT_VERSION}"
    files = {name.replace(former, later): data for name, data in _read(wheel).items()}
    for name, line in (
        ("heatline/edge/__init__.py", '__version__ = "{}"'),
        (f"{later}.dist-info/METADATA", "Version: {}"),
    ):
        old, new = (line.format(version).encode() for version in (former.partition("-")[2], NEXT_VERSION))
        assert files[name].count(old + b"\n") == 1
        files[name] = files[name].replace(old, new)
    _write(into / wheel.name.replace(former, later), files)


def _write_pointer(wheel: Path, folder: str, into: Path) -> None:
    """Write a wheel with the metadata of another one, which adds a folder to Python's path."""
    described = _read(wheel, (".dist-info/METADATA", ".dist-info/WHEEL"))
    _write(into / wheel.name, {**described, f"former_{wheel.name.split('-')[0]}.pth": f"{folder}\n".encode()})


def _read(wheel: Path, endings: tuple[str, ...] = ("",)) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith(("/", ".dist-info/RECORD"))]
        return {name: archive.read(name) for name in names if name.endswith(endings)}


def _write(wheel: Path, files: Mapping[str, bytes]) -> None:
    (record,) = {f"{Path(name).parent}/RECORD" for name in files if name.endswith(".dist-info/METADATA")}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in {**files, record: "".join(f"{name},,\n" for name in (*files, record)).encode()}.items():
            archive.writestr(name, data)


def _package() -> ModuleType:
    """Import the script `systemd/package.py`, which is in no package."""
    spec = importlib.util.spec_from_file_location("systemd_package", ROOT / "systemd" / "package.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

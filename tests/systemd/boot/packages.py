"""Builds the package that line PCs are installed from, and the package of a later version."""

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[3]
LINE_PCS_PYTHON = "/usr/bin/python3"
SOURCES = "pyproject.toml", "README.md", "LICENSE", "edge", "train", "export", "bench", "heatline"
NEXT_VERSION = "99.0.0"


def build_package(out: Path) -> Path:
    """Build the package as `make package` does; wheels that are already in `out` are not downloaded again."""
    return Path(_package().build(LINE_PCS_PYTHON, out))


def build_next_package(package: Path, into: Path) -> Path:
    """Build the same package with a later version of heatline."""
    builder, sources = _package(), into / "sources"
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        sources.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, sources / name)
    module = sources / "edge" / "__init__.py"
    module.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{NEXT_VERSION}"', module.read_text()))
    wheel = builder.own_wheel(sources, into / "own")
    made = shutil.copytree(package, into / "package")
    for old in (made / "wheels").glob("heatline-*.whl"):
        old.unlink()
    shutil.copy(wheel, made / "wheels")
    target = dict(line.split("=", 1) for line in (made / "target").read_text().splitlines())
    builder.seal(made, python=target["python"], machine=target["machine"])
    return made


def _package() -> ModuleType:
    """Import the script `systemd/package.py`, which is in no package."""
    spec = importlib.util.spec_from_file_location("systemd_package", ROOT / "systemd" / "package.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

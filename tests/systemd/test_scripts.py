"""The scripts that build and install the package, tested without a package."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from systemd.package import glibc_of, seal
from tests.needs import need

FOLDER = Path(__file__).parents[2] / "systemd"


@pytest.mark.parametrize("script", ["install.sh", "rollback.sh"])
def test_shellcheck_finds_nothing_in_the_scripts(script: str) -> None:
    result = subprocess.run([need("shellcheck"), FOLDER / script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", ["install.sh", "rollback.sh"])
def test_the_scripts_print_their_usage(script: str) -> None:
    result = subprocess.run(["sh", FOLDER / script, "--help"], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: ")
    assert "\nExample: " in result.stdout


@pytest.mark.parametrize(
    ("wheel", "oldest"),
    [
        ("rich-15.0.0-py3-none-any.whl", (0, 0)),
        ("cryptography-50.0.2-cp311-abi3-manylinux_2_34_x86_64.whl", (2, 34)),
        ("cffi-2.1.1-cp313-cp313-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", (2, 17)),
        ("pyzmq-27.3.0-cp312-abi3-manylinux_2_26_x86_64.manylinux_2_28_x86_64.whl", (2, 26)),
        ("numpy-1.0-cp313-cp313-manylinux1_x86_64.whl", (2, 5)),
    ],
)
def test_the_glibc_that_a_wheel_needs_is_in_its_name(wheel: str, oldest: tuple[int, int]) -> None:
    assert glibc_of(Path(wheel)) == oldest


def test_sealing_lists_every_file_and_pins_every_wheel_but_pip(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    for name in (
        "heatline-1.2.3-py3-none-any",
        "rich-15.0.0-cp313-cp313-manylinux_2_28_x86_64",
        "pip-26.3-py3-none-any",
    ):
        with zipfile.ZipFile(tmp_path / "wheels" / f"{name}.whl", "w") as wheel:
            wheel.writestr("module.py", bytes(2**20))
    seal(tmp_path, python="3.13", machine="x86_64")
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True)
    listed = {line.split("  ")[1] for line in (tmp_path / "SHA256SUMS").read_text().splitlines()}
    assert listed == {
        "README.txt",
        "requirements.txt",
        "target",
        *(f"wheels/{each.name}" for each in (tmp_path / "wheels").iterdir()),
    }
    assert [line.split(" ")[0] for line in (tmp_path / "requirements.txt").read_text().splitlines()] == [
        "heatline==1.2.3",
        "rich==15.0.0",
    ]
    assert (tmp_path / "target").read_text() == "version=1.2.3\npython=3.13\nmachine=x86_64\nglibc=2.28\nsize_mib=4\n"

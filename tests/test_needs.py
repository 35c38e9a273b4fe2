"""A machine without Debian packages is told them in one line."""

import subprocess
import sys
from pathlib import Path

from tests.needs import PACKAGES

WITHOUT = """
import pytest
from tests import needs
needs.PACKAGES = dict.fromkeys(needs.PACKAGES, "/nowhere")
files = "tests/systemd/test_scripts.py", "tests/edge/test_view_memory.py"
pytest.main(["-p", "no:cacheprovider", "-k", "test_scripts or promtool", *files])
"""


def test_what_the_machine_lacks_is_one_line() -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    (line,) = (line for line in result.stdout.splitlines() if "skipped:" in line)
    assert line == "4 skipped: Debian packages are missing: apt install prometheus shellcheck (.ci/run installs them)"
    assert {"prometheus", "shellcheck"} <= PACKAGES.keys()

"""`heatline bench micro`."""

import json
import sys
import tempfile
from pathlib import Path

import click

from bench.commands.common import bundle_argument
from edge.bundle import open_bundle
from edge.cli.extras import require_extra
from edge.cli.output import json_option, print_json
from edge.errors import BenchError


@click.command(epilog="Example: heatline bench micro boards.bundle --json")
@bundle_argument
@json_option
def micro(bundle_path: Path, as_json: bool) -> None:
    """Time tiler, engines, stitcher and message encoding by themselves, the engines with BUNDLE."""
    require_extra("bench", "pytest", "pytest_benchmark")
    import pytest

    open_bundle(bundle_path)  # what is wrong with it is said here, in one sentence
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "micro.json"
        arguments = [
            *(str(file) for file in sorted(Path(__file__).parents[1].glob("bench_*.py"))),
            "--benchmark-only",
            f"--benchmark-json={results}",
            f"--bundle={bundle_path.resolve()}",
            "--override-ini=python_files=bench_*.py",
            "--override-ini=python_functions=bench_*",
            "--import-mode=importlib",
            "-q",
        ]
        standard_output = sys.stdout
        if as_json:
            sys.stdout = sys.stderr  # pytest's own report; ours is the JSON
        try:
            code = pytest.main(arguments)
        finally:
            sys.stdout = standard_output
        if code != pytest.ExitCode.OK:
            raise BenchError(f"the benches ended with pytest's code {int(code)}; see its report above")
        if as_json:
            print_json(json.loads(results.read_text()))

"""`heatline bridge`: what all bridges require of the line that they are given."""

from pathlib import Path

import pytest

from heatline.edge.cli.bridge import bridge as bridges
from tests.command import complaint, heatline


@pytest.mark.parametrize("bridge", sorted(bridges.commands))
def test_an_address_or_a_file_without_the_table_is_one_sentence(bridge: str, tmp_path: Path) -> None:
    result = heatline("bridge", bridge, "tcp://127.0.0.1:5558")
    assert result.returncode == 3
    assert "cannot be read (No such file or directory); name a line configuration" in complaint(result)
    file = tmp_path / "line1.toml"
    file.write_text('bundle = "none"\n[[cameras]]\nkind = "pattern"\nname = "top"\n')
    result = heatline("bridge", bridge, file)
    assert result.returncode == 3
    assert f"{file} has no table [{bridge}]; add one" in complaint(result)
    assert f"see docs/plant-{bridge}.md" in complaint(result)

"""`heatline bench peers`."""

from pathlib import Path

import click

from heatline.bench.commands.common import FrameSize, deliver, out_option, precision_option, report_line
from heatline.bench.machine import machine
from heatline.bench.peers.systems import PEERS, SystemName
from heatline.bench.result_file import claim, new_report
from heatline.edge.cli.output import json_option
from heatline.edge.geometry.tiling import OVERLAP_PX, TILE_PX
from heatline.edge.inference import Precision
from heatline.edge.util.extras import require_extra

PEERS_PYTHON = Path(__file__).resolve().parents[2] / ".venv-peers" / "bin" / "python"


@click.command(epilog="Example: heatline bench peers --model mobilenetv3_large_d --size 2448x2048 --out peers.json")
@click.option(
    "--model", "name", default="mobilenetv3_large_d", show_default=True, help="As `heatline models` shows them."
)
@precision_option
@click.option("--size", "frame_hw", type=FrameSize(), default="2448x2048", show_default=True, help="Of the frames.")
@click.option("--frames", type=click.IntRange(1, 100), default=4, show_default=True, help="In each turn.")
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Of all systems.")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    type=click.Choice(PEERS),
    default=PEERS,
    help="To compare with; may be repeated. Default: all.",
)
@click.option(
    "--peers-python",
    type=click.Path(path_type=Path),
    default=PEERS_PYTHON,
    help="Python of the peers' environment. Default: that of `make peers-env`.",
)
@out_option
@json_option
def peers(
    name: str,
    precision: Precision,
    frame_hw: tuple[int, int],
    frames: int,
    rounds: int,
    peers: tuple[SystemName, ...],
    peers_python: Path,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare heatline with anomalib, OpenVINO Model API and PyTorch with grad-cam: same frames, network and machine.

    Each runs as documented, at its best settings and warm, in interleaved rounds, and its answers are checked. Figures
    are shares of the engine alone. Run nothing else on the machine.
    """
    require_extra("peers")
    if "grad-cam" in peers and precision == "f32":
        require_extra("peers")
    from heatline.bench.peers.peers import faults, measure_peers, to_facts
    from heatline.train.compose import read_model

    now, config = machine(), read_model(name)
    claim(out)
    found = measure_peers(
        config,
        precision=precision,
        frame_hw=frame_hw,
        frames=frames,
        rounds=rounds,
        peers=peers,
        peers_python=peers_python,
        report_line=report_line,
        tile_px=TILE_PX,
        overlap_px=OVERLAP_PX,
    )
    title = f"{found.model} in {found.precision}"
    deliver(title, new_report("peers", now, found), to_facts(found), out, as_json, faults(found))

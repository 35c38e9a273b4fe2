"""`heatline retrain`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from heatline.edge.cli.options import FiniteRange
from heatline.edge.cli.output import json_option, print_json, print_warnings, progress_console
from heatline.edge.config import LineConfig, load_config
from heatline.edge.monitor.store import evidence_of
from heatline.edge.target import file_of
from heatline.edge.util.extras import require_extra
from heatline.edge.util.process import sigterm_as_ctrl_c

if TYPE_CHECKING:
    from heatline.export.retrain.retrain import Request

NOT_BETTER = 22
"""Exit code of a retraining that is finished, but whose bundle is not offered: an answer, not an error."""

EXAMPLES = """
Example:

\b
  heatline retrain line1
  heatline retrain --reviewed marked-frames --bundle boards.bundle --data pictures
"""


@click.command(epilog=EXAMPLES)
@click.argument("line", required=False)
@click.option("--product", help="The line's product whose bundle is retrained. Default: the one in its file.")
@click.option(
    "--reviewed",
    type=click.Path(path_type=Path),
    help="Instead of LINE: a folder that heatline evidence export --reviewed wrote.",
)
@click.option("--bundle", type=click.Path(path_type=Path), help="With --reviewed: the bundle that is retrained.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="The folder of pictures that the bundle was trained on. Default: where it was then.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the retraining. Default: in runs/, by the bundle's name and the marks.",
)
@click.option(
    "--hold-out",
    "share",
    type=FiniteRange(min=0, max=0.9),
    default=round(1 / 3, 2),
    show_default=True,
    help="Share of the reviewed frames of each kind that are not trained on, to compare both bundles.",
)
@json_option
@sigterm_as_ctrl_c()
def retrain(
    line: str | None,
    product: str | None,
    reviewed: Path | None,
    bundle: Path | None,
    data: Path | None,
    out: Path | None,
    share: float,
    as_json: bool,
) -> None:
    """Train a bundle again with the frames that people have marked, and offer the new one if it is better.

    LINE is a line's name or its TOML file. Its bundle is trained again by the same settings on its training folder and
    on reviewed frames of the evidence store. Some reviewed frames are held out; old and new bundle are compared on
    them. If the new one is better, the commands are printed that deploy it, and that go back. Nothing else
    changes: the line goes on with its bundle.

    After Ctrl-C or SIGTERM, the same command continues. The exit code is 22 if the new bundle is not better.
    """
    require_extra("export")
    if (line is None) == (reviewed is None) or (reviewed is None) != (bundle is None):
        raise click.UsageError("name either LINE, or --reviewed FOLDER together with --bundle BUNDLE")
    if product is not None and line is None:
        raise click.UsageError("--product belongs to LINE; leave it out with --reviewed")
    from heatline.export.retrain.report import commands_of_folder, commands_of_line, print_result
    from heatline.export.retrain.retrain import retrain as run_retraining

    if line is None:
        assert reviewed is not None, "checked above"
        assert bundle is not None, "checked above"
        config, request = None, _request_of_folder(reviewed, bundle, data, out, share)
    else:
        config = load_config(file_of(line))
        config = config.of_product(config.product if product is None else product)
        request = _request_of_line(line, config, data, out, share)
    result = run_retraining(
        request, lambda text: progress_console().print(text, style="dim", highlight=False, markup=False)
    )
    new = Path(result.bundle)
    if config is None or line is None:
        commands = commands_of_folder(request.bundle, new)
    else:
        owner = next((each.name for each in config.products if each.name == config.product and each.bundle), None)
        commands = commands_of_line(line, owner, request.bundle, new, sign=not config.allow_unsigned)
    print_warnings([*result.warnings, *([] if config is None else _warn_of_line(config))])
    if as_json:
        print_json({"result": result, "commands": [command for _, command in commands] if result.better else []})
    else:
        print_result(result, commands)
    if not result.better:
        click.get_current_context().exit(NOT_BETTER)


def _request_of_line(line: str, config: LineConfig, data: Path | None, out: Path | None, share: float) -> "Request":
    from heatline.edge.monitor.store import EvidenceStore
    from heatline.export.retrain.frames import frames_of_store
    from heatline.export.retrain.judge import Judging
    from heatline.export.retrain.retrain import Request

    store = EvidenceStore(evidence_of(line))
    judging = Judging.of_line(config)
    return Request(config.bundle, frames_of_store(store), str(store.folder), judging, share, data, out)


def _request_of_folder(reviewed: Path, bundle: Path, data: Path | None, out: Path | None, share: float) -> "Request":
    from heatline.edge.bundle import open_bundle
    from heatline.export.retrain.frames import frames_of_folder
    from heatline.export.retrain.judge import Judging
    from heatline.export.retrain.retrain import Request

    frames = frames_of_folder(reviewed)
    return Request(bundle, frames, str(reviewed), Judging.of_frames(frames, open_bundle(bundle)), share, data, out)


def _warn_of_line(config: LineConfig) -> list[str]:
    """Warn of settings of a line that belong to its old bundle.

    Args:
        config: with the product's settings in place.
    """
    warnings = []
    thresholds = config.thresholds
    named = [key for key in ("score", "evidence") if getattr(thresholds, key) is not None]
    if named:
        keys = " and ".join(f"thresholds.{key}" for key in named)
        warnings.append(
            f"the line's file sets {keys}, in logits of the old bundle; both bundles were judged by it: remove it to "
            "use the new bundle's own"
        )
    return warnings

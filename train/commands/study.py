"""`heatline study`."""

from pathlib import Path

import click

from heatline.edge.cli.output import json_option, print_json, print_table, visible
from heatline.edge.errors import TrainingError
from heatline.edge.util.extras import require_extra
from heatline.edge.util.process import sigterm_as_ctrl_c

EXAMPLES = """
Example:

\b
  heatline study data --out runs/study --status
  heatline study data --out runs/study --only 'hripcb/*' --results figures
"""


@click.command(epilog=EXAMPLES)
@click.argument("data", envvar="HEATLINE_DATA", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default="runs/study", show_default=True, help="Folder of the study."
)
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    help="YAML file with models, data and settings.  [default: train/configs/study.yaml]",
)
@click.option("--only", metavar="GLOB", multiple=True, help="Only runs whose DATA/FOLD/MODEL matches; may be repeated.")
@click.option(
    "--results", type=click.Path(path_type=Path), help="Also copy the figures, without pictures, to this folder."
)
@click.option("--status", "only_status", is_flag=True, help="Print the progress, and do nothing.")
@json_option
@sigterm_as_ctrl_c()
def study(
    data: Path,
    out: Path,
    plan_file: Path | None,
    only: tuple[str, ...],
    results: Path | None,
    only_status: bool,
    as_json: bool,
) -> None:
    """Train, evaluate and report every model of a plan on every fold.

    DATA is the folder of the data sets; the default is the environment variable HEATLINE_DATA. A data set that does not
    exist is left out.

    The same command, given again, continues with what is not done, also after a kill; two such commands at a time
    share the runs. If a run fails, it is reported and the others continue; the exit code is then 11.
    """
    require_extra("train")
    from heatline.train.study import DEFAULT_PLAN, Study, read_plan

    work = Study(read_plan(plan_file or DEFAULT_PLAN), data, out, only)
    for name in work.missing:
        click.echo(f"{name} is left out: {data} does not have it", err=True)
    status = work.status() if only_status else work.work(results, lambda line: click.echo(visible(line), err=True))
    if as_json:
        print_json(status)
    else:
        rows = [
            (
                run.run,
                run.state,
                str(run.steps or ""),
                "" if run.seconds is None else f"{run.seconds:.0f}",
                run.weights or "",
                status.failed.get(run.run) or run.why or "",
            )
            for run in status.runs
        ]
        print_table(("run", "state", "steps", "s", "initial weights", ""), rows, numbers=("steps", "s"))
        done = sum(run.state == "evaluated" for run in status.runs)
        click.echo(f"{done} of {len(status.runs)} runs are evaluated")
        if status.report is not None:
            click.echo(f"the report is in {status.report}")
    if status.failed:
        name, why = next(iter(status.failed.items()))
        others = f", and {len(status.failed) - 1} more" if len(status.failed) > 1 else ""
        raise TrainingError(f"{name} failed ({why}){others}; correct that, then give the same command again")

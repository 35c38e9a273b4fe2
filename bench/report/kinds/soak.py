"""Growth over frames."""

from bench.report.content import Block, Plot, facts
from bench.report.files import Result
from bench.soak.picture import draw
from bench.soak.soak import TARGET_BYTES_PER_FRAME, Soak, run_in_words, to_facts


def blocks(result: Result) -> list[Block]:
    """One for all runs of a soak."""
    return [_block(one) for one in result.decoded(Soak) if one.runs]


def _block(found: Soak) -> Block:
    names = [run_in_words(run.rate_fps) for run in found.runs]
    picture = draw(found.runs, names, TARGET_BYTES_PER_FRAME, is_alone=False)
    caption = f"Memory since the first sample; dashed: the target, {TARGET_BYTES_PER_FRAME:g} bytes a frame."
    tables = [facts(to_facts(run), name) for name, run in zip(names, found.runs, strict=True)]
    told = () if found.cut_short_by is None else (f"Cut short by {found.cut_short_by}.",)
    return Block(f"{found.model} in {found.precision}", told, (Plot(picture, caption),), tuple(tables))

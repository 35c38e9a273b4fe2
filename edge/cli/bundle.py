"""`heatline bundle`."""

from pathlib import Path

import click

from heatline.edge.bundle import open_bundle, open_verified_engine
from heatline.edge.bundle.manifest import describe_missed
from heatline.edge.bundle.signature import TRUSTED_KEYS, describe_signer, require_trusted, signer_of
from heatline.edge.cli.bundle_diff import diff
from heatline.edge.cli.bundle_formatting import (
    count_frames,
    describe_bound,
    describe_differences,
    describe_gate,
    describe_map_checks,
    describe_plausible,
    describe_reference,
    describe_rule,
    describe_strong,
    precision_facts,
    reference_facts,
)
from heatline.edge.cli.bundle_signing import keygen, sign, trust
from heatline.edge.cli.group import CommandGroup
from heatline.edge.cli.options import engine_option, precision_option
from heatline.edge.cli.output import facts_of, json_option, print_facts, print_json, print_report
from heatline.edge.cli.set_reference import set_reference
from heatline.edge.inference import EngineKind, Precision

BundleArgument = click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))


@click.group(cls=CommandGroup, epilog="Example: heatline bundle verify boards.bundle")
def bundle() -> None:
    """Show, verify, compare and sign bundles, and set what frames are compared with."""


for _command in (diff, keygen, set_reference, sign, trust):
    bundle.add_command(_command)


@bundle.command(epilog="Example: heatline bundle show boards.bundle --json")
@BundleArgument
@json_option
def show(bundle_path: Path, as_json: bool) -> None:
    """Verify the files of BUNDLE and print its manifest.

    --json prints the manifest, its digest, and the fingerprint of the key that signed it.
    """
    opened = open_bundle(bundle_path)
    manifest = opened.manifest
    fingerprint = None if opened.signed_by is None else opened.signed_by.fingerprint
    if as_json:
        print_json({"digest": opened.digest, "signed_by": fingerprint, "manifest": manifest})
        return
    calibration = manifest.calibration
    print_facts(
        f"{manifest.name} {manifest.version}",
        {
            "digest": opened.digest,
            "signed by": "nobody" if fingerprint is None else f"key {fingerprint}",
            "made": f"{manifest.created_at} by {manifest.made_by}",
            "model": f"{manifest.model.name} ({manifest.model.source}), {manifest.model.parameters:,} parameters",
            "map": f"{manifest.map.method}, {manifest.map.hw[0]}x{manifest.map.hw[1]} cells, {manifest.map.identity}",
            "tiles": f"{manifest.grid.tile_px} px, overlap {manifest.grid.overlap_px} px, heatmap cell "
            f"{manifest.grid.heatmap_cell_px} px, smoothed by {manifest.grid.smoothing_px:g} px, "
            f"colour {manifest.colour}",
            **reference_facts(manifest),
            "score threshold": f"{calibration.score_threshold:.2f} logits",
            "evidence threshold": f"{calibration.evidence_threshold:.2f} logits",
            "strong evidence": describe_strong(calibration),
            "calibrated by": f"{describe_rule(calibration)}, on "
            f"{count_frames(calibration.frames, calibration.frames_are)}",
            "a frame must be": describe_plausible(calibration.plausible),
            **{
                f"a frame of camera {name} must be": describe_plausible(each.plausible)
                for name, each in calibration.plausible_by_camera.items()
            },
            "drift is watched by": describe_reference(calibration.reference),
            **{
                f"drift of camera {name} is watched by": describe_reference(each.reference)
                for name, each in calibration.plausible_by_camera.items()
            },
            "false rejects": describe_bound(calibration),
            "missed defects": describe_missed(calibration.missed) or "not known by class and size",
            "export gate": describe_gate(manifest.gate),
            "map checks": describe_map_checks(manifest.map_checks),
            **precision_facts(manifest),
            "files": ", ".join(sorted(manifest.files)),
        },
    )


@bundle.command(epilog="Example: heatline bundle verify boards.bundle --engine onnxruntime")
@BundleArgument
@engine_option
@precision_option
@click.option(
    "--keys",
    "folder",
    type=click.Path(path_type=Path),
    help=f"Refuse BUNDLE unless a key of this folder signed it. Default: only print if a key of {TRUSTED_KEYS} did.",
)
@json_option
def verify(bundle_path: Path, kind: EngineKind, precision: Precision, folder: Path | None, as_json: bool) -> None:
    """Verify every file of BUNDLE and its signature, if it has one, and run its golden tiles on this machine."""
    opened = open_bundle(bundle_path)
    signer = signer_of(opened, TRUSTED_KEYS) if folder is None else require_trusted(opened, folder)
    verified = open_verified_engine(opened, kind, precision)
    engine = verified.engine
    report: dict[str, object] = {
        "name": opened.manifest.name,
        "version": opened.manifest.version,
        "digest": opened.digest,
        "signed_by": signer,
        "engine": engine.name,
        "precision": engine.precision,
        "fell_back": verified.fell_back,
        "golden_tiles": len(opened.golden().tiles),
        "off_by": verified.differences,
        "allowed": opened.manifest.tolerances[engine.precision],
    }
    facts = facts_of(report) | {
        "signed by": describe_signer(signer),
        "golden tiles": f"{report['golden_tiles']}, off by {describe_differences(verified.differences)} of the scale, "
        f"{report['allowed']:.1e} allowed",
    }
    del facts["off by"], facts["allowed"]
    if verified.fell_back is None:
        del facts["fell back"]
    print_report(report, as_json, f"{bundle_path} is whole and works on this machine in {verified.computes_in}", facts)

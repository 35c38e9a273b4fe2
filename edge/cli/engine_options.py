"""Which engine runs a bundle, and in what: options that commands share."""

import click

engine_option = click.option(
    "--engine", "kind", type=click.Choice(["openvino", "onnxruntime"]), default="openvino", show_default=True
)

precision_option = click.option(
    "--precision",
    type=click.Choice(["f32", "bf16", "int8"]),
    default="f32",
    show_default=True,
    help="What a bundle is computed in. Where this machine cannot, f32 is used instead, with a warning.",
)

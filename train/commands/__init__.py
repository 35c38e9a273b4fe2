"""Subcommands that `train` adds to `heatline`. They import torch only when they run."""

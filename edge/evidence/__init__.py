"""Pictures of judged frames on the disk, with heatmap and event. docs/evidence.md describes the folder."""

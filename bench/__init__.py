"""Measures what the parts cost. Its edge-only benches run where no training library is installed."""

"""Benches. Those that need `edge` only run where no training library is installed."""

"""Benchmarks that need more than Pieria itself installed."""

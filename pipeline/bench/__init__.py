"""Benchmarks: workloads, the load client, the engine alone, and results."""

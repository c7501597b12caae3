"""Measuring: workloads, their driver, the engine alone, and what came out."""

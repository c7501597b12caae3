"""Connections from a console to a pipeline: telemetry, orders, HTTP, ssh, recordings."""

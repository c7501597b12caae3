"""How a console reaches a pipeline: telemetry, orders, HTTP, ssh, recordings."""

"""The pipeline's state as the console knows it: folded messages, alerts, series. Draws nothing."""

"""What is known of a pipeline: folded messages, alerts, series. Draws nothing."""

"""The panes that plot values over time."""

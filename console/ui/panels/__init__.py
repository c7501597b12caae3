"""Panels and panes. They draw `Board` snapshots and post messages; they know no socket."""

"""One widget a file. A panel draws `Board` snapshots and posts messages; it knows no socket."""

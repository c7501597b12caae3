"""The process that decides: requests, adapters and the log of decisions."""

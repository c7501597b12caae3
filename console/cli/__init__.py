"""The commands of `loraconsole`, one noun a file."""

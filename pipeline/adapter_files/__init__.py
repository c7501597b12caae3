"""What an adapter's files are and say; they are believed in nothing."""

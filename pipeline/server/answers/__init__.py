"""Answers: their text as it comes, and their forms."""

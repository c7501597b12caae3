"""Grammars of constrained answers, by llguidance: what a request asks for as a grammar, and the
tokens that may come next. Knows no tensor and no socket."""

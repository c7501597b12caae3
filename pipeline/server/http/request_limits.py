"""The bounds on what one request, one client and all clients together may cost the server.

`docs/limits.md` has them in one table. Settings of `Config` are those that operators may need to
change: `max_body_mib`, `max_choices`, `max_connections`, `max_connections_per_client`.
"""

from __future__ import annotations

# --- a body -------------------------------------------------------------------------------------

MOST_DEPTH = 64
"""Deepest nesting of a body, in brackets and braces."""
MOST_VALUES = 500_000
"""Most values (numbers, strings, objects, lists and their elements) in a body. They take 5 to
250 ms of the event loop to decode, by their kind."""
MOST_DIGITS = 400
"""Longest number in a body, in characters. Python's conversion of digits is quadratic."""
BODY_BYTES_OF_ALL = 256 << 20
"""Bytes of all bodies that are being received, and of those that wait for the tokenizer."""

# --- a connection -------------------------------------------------------------------------------

MOST_HEADER_BYTES = 32 << 10
"""Bytes of a request's line and headers together."""
MOST_HEADERS = 100
MOST_TARGET_BYTES = 8 << 10
"""Bytes of the path and query of a request."""
MOST_SMALL_CHUNKS = 1000
SMALL_CHUNK = 64
"""A body in more chunks than the first, of fewer bytes on average than the second, is refused."""
HEAD_SECONDS = 10.0
"""Time for a request's line and headers, from its first byte or from the connection's opening."""
BODY_SECONDS = 60.0
"""Time for a body, from the end of the headers."""
MOST_READ_ON = 1 << 20
"""A body of at most this length is read to its end though it is refused, and the connection stays
open."""
LINGER_SECONDS = 2.0
"""How long the rest of a refused request is read and dropped, so that the client sees the answer
instead of a reset connection."""
LINGER_BYTES = 16 << 20
"""How much of it at most."""
SLOW_READER_SECONDS = 30.0
SLOW_READER_BYTES = 16 << 10
"""A client for which 64 KiB of an answer wait must read this much in that time, or it is cut."""

# --- text ---------------------------------------------------------------------------------------

SHORT_TEXT = 16 << 10
"""Characters of text that are tokenised apart from longer ones, so that they never wait for
those."""
TEXT_SECONDS = 20.0
"""Longest wait for the tokens of a request's text, and for its form to be compiled."""
MOST_SHORT_TEXTS = 1024
MOST_LONG_TEXTS = 64
"""Requests whose texts may wait to be tokenised; one more is refused with 503."""
MOST_GRAMMARS = 256
"""Requests whose forms may wait to be compiled, each 1 to 60 ms."""
TEXT_BYTES = 1 << 20
TEXT_BYTES_PER_TOKEN = 64
"""Longest text of a prompt for a tokenizer that may drop or fuse characters: the larger of the
first and the second times the model's length."""

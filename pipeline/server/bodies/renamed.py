"""`renamed`: refusals of a chat, in the names of another protocol's fields.

Routes of other protocols make a chat's body of theirs; what it refuses has to name their fields.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

from ..http.bad_request import BadRequest

FIRST = re.compile(r"[a-z_]+")


@contextlib.contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Renames the field of each `BadRequest` that is raised inside, in its reason too."""
    try:
        yield
    except BadRequest as error:
        found = FIRST.match(error.param or "")
        if found and found[0] in names:
            old, new = found[0], names[found[0]]
            assert error.param is not None
            error.param = new + error.param[len(old) :]
            error.reason = re.sub(rf"\b{old}\b", new, error.reason, count=1)
        raise

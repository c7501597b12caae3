"""`renamed`: refusals of a chat, in the names of another protocol's fields.

Routes of other protocols make a chat's body of theirs; what it refuses has to name their fields.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

from ..http.bad_request import BadRequest


@contextlib.contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Renames the field of each `BadRequest` that is raised inside, in its reason too. `names` are
    paths, of which the longest counts; `[]` in both stands for an index."""
    try:
        yield
    except BadRequest as error:
        for old in sorted(names, key=len, reverse=True):
            pattern = re.escape(old).replace(re.escape("[]"), r"\[(\d+)\]") + r"(?![a-z_])"
            new = names[old].replace("[]", r"[\1]")
            if error.param and re.match(pattern, error.param):
                error.param = re.sub(pattern, new, error.param, count=1)
                error.reason = re.sub(rf"(?<![a-z_]){pattern}", new, error.reason, count=1)
                break
        raise

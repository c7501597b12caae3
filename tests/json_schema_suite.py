"""JSON Schema's own test suite as constraints: `make test-json-schema`, or

    python tests/json_schema_suite.py FOLDER

FOLDER holds the suite of draft 2020-12, a folder of JSON files. Each schema is compiled or
refused. A compiled one must match no instance that the suite calls invalid, and whatever it
generates must validate (by the package jsonschema). It may match fewer than all valid ones: the
order of properties is fixed. Prints a row per keyword, and exits 1 if an answer could be invalid.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from llguidance.numpy import fill_next_token_bitmask
from token_tables import matches, vocabulary

from loraconsole.pipeline.grammar.grammar_checker import GrammarChecker
from loraconsole.pipeline.grammar.mask_filler import complete_masks
from loraconsole.pipeline.grammar.matcher import Ending, Matcher, compile_grammar
from loraconsole.pipeline.grammar.specification import GrammarRefused, json_schema_grammar

CLOSING = frozenset(b'"}]')
GENERATED = 8
"""Answers per schema."""
LONGEST = 300
"""Characters after which an answer is given up; half of all answers end before."""


def generate(grammar: str, seed: int) -> str | None:
    """A random text of a grammar over single bytes; None if it becomes too long."""
    chance, tokens = random.Random(seed), vocabulary()
    matcher = Matcher(compile_grammar(grammar, tokens), tokens, Ending.of(tokens, [257], []))
    text = bytearray()
    mask = np.zeros((1, tokens.words), dtype=np.int32)
    while len(text) < LONGEST:
        fill_next_token_bitmask(matcher.library, mask)
        complete_masks([(0, matcher)], mask)
        usable = np.unpackbits(mask.view(np.uint8), bitorder="little").nonzero()[0].tolist()
        assert usable, matcher.error
        if 257 in usable and (len(usable) == 1 or chance.random() < 0.5):
            return text.decode()
        closing = [code for code in usable if code in CLOSING]
        usual = [code for code in usable if 32 < code < 127] or [c for c in usable if c != 257]
        token = chance.choice(closing if closing and chance.random() < 0.3 else usual)
        text.append(token)
        matcher.accept_tokens([token])
    return None


def main(folder: Path) -> None:
    checker = GrammarChecker(vocabulary())
    unsound: list[str] = []
    print(f"{'keyword':28} schemas refused  matched/valid  matched/invalid  generated")
    for path in sorted(folder.glob("*.json")):
        counts: Counter[str] = Counter()
        for group in json.loads(path.read_text()):
            check_group(path.stem, group, checker, counts, unsound)
        print(
            f"{path.stem:28} {counts['schemas']:7} {counts['refused']:7} "
            f"{counts['matched valid']:8}/{counts['valid']:<6}"
            f"{counts['matched invalid']:8}/{counts['invalid']:<7} {counts['generated']:6}"
        )
    print("\n".join(unsound) or "no answer can be invalid")
    sys.exit(bool(unsound))


def check_group(
    keyword: str,
    group: dict[str, Any],
    checker: GrammarChecker,
    counts: Counter[str],
    unsound: list[str],
) -> None:
    schema, name = group["schema"], f"{keyword}: {group['description']}"
    counts["schemas"] += 1
    try:
        grammar = json_schema_grammar(schema)
        checker.check(grammar)
    except GrammarRefused:
        counts["refused"] += 1
        return
    for test in group["tests"]:
        expected = "valid" if test["valid"] else "invalid"
        counts[expected] += 1
        if matches(grammar, json.dumps(test["data"], ensure_ascii=False)):
            counts[f"matched {expected}"] += 1
            if not test["valid"]:
                unsound.append(f"{name}: matches {test['description']}")
    validator = jsonschema.Draft202012Validator(schema)
    for seed in range(GENERATED):
        text = generate(grammar, seed)
        if text is None:
            continue
        counts["generated"] += 1
        if not validator.is_valid(json.loads(text)):
            unsound.append(f"{name}: generates {text}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

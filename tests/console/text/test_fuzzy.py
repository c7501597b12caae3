"""Names found by a few of their letters."""

from loraconsole.console.text.fuzzy import Fuzzy, fuzzy_matches


def test_the_whole_name_is_best_then_its_beginning_a_word_in_it_and_letters_in_order() -> None:
    names = ["s-q-l", "mysqldump", "base-sql-v2", "sql-base-v2", "SQL", "python"]
    assert fuzzy_matches("sql", names) == ["SQL", "sql-base-v2", "base-sql-v2", "mysqldump"]


def test_letters_apart_match_if_no_name_has_them_together() -> None:
    assert fuzzy_matches("sde", ["support-de", "legal"]) == ["support-de"]
    assert fuzzy_matches("sde", ["support-de", "glasdeckel"]) == ["glasdeckel"]


def test_letters_close_together_come_before_letters_far_apart() -> None:
    assert fuzzy_matches("sde", ["sales-in-denmark", "support-de"]) == [
        *("support-de", "sales-in-denmark")
    ]


def test_an_empty_query_keeps_every_name_and_their_order() -> None:
    assert fuzzy_matches("", ["b", "a"]) == ["b", "a"]


def test_a_letter_that_is_missing_or_out_of_order_does_not_match() -> None:
    assert fuzzy_matches("lqs", ["sql"]) == []
    assert fuzzy_matches("sqlx", ["sql"]) == []


def test_signs_of_expressions_are_letters() -> None:
    assert fuzzy_matches("v2.1", ["legal-v2.1", "legal-v2x1"]) == ["legal-v2.1"]


def test_the_cells_of_a_match_are_those_of_the_query() -> None:
    for query, name in (("de", "support-DE"), ("sde", "support-de"), ("x", "support-de")):
        shown = "".join(name[at] for at in sorted(Fuzzy(query).places(name))).lower()
        assert shown == (query if query != "x" else "")

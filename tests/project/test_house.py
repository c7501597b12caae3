"""The counting of the house rules, on small made projects."""

from __future__ import annotations

from pathlib import Path

from house import circles, figures, imports_of, read_modules


def project(root: Path, **files: str) -> Path:
    """A root with these modules; `a__b` is a/b.py."""
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def beyond(root: Path) -> dict[str, str]:
    """The figures beyond their bounds, by name."""
    return {figure.name: figure.value for figure in figures(root) if not figure.within}


SOUND = {
    "console__ui__app": "from ...pipeline.messages import Step\n\n\nclass App:\n    pass\n",
    "pipeline__messages": "class Step:\n    def end(self) -> int:\n        return 0\n",
}


def test_a_sound_house_is_within_all_bounds(tmp_path: Path) -> None:
    assert beyond(project(tmp_path, **SOUND)) == {}


def test_a_circle_by_a_lazy_import_and_one_for_types_alone_is_found(tmp_path: Path) -> None:
    lazy = "def run() -> None:\n    from .lock import held\n"
    types = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from .child import run\n"
    root = project(
        tmp_path, **SOUND, console__supervisor__child=lazy, console__supervisor__lock=types
    )
    assert beyond(root) == {"circles / files in them": "1 / 2"}
    modules = read_modules(root)
    found = circles({name: imports_of(module, modules) for name, module in modules.items()})
    assert found == [["console.supervisor.child", "console.supervisor.lock"]]


def test_an_arrow_between_rooms_that_runs_back_is_counted(tmp_path: Path) -> None:
    there = {"console__state__board": "from ..text.lines import A\n", "console__text__lines": ""}
    back = {"console__text__plot": "from ..state.store import B\n", "console__state__store": ""}
    other = {"console__text__ansi": "from ..cli.x import C\n", "console__cli__x": ""}
    down = {"console__cli__y": "from ..text.lines import A\n"}
    root = project(tmp_path, **SOUND, **there, **back)
    assert beyond(root) == {}, "one is permitted"
    assert beyond(project(root, **other, **down)) == {"arrows between rooms that run back": "2"}


def test_a_public_name_with_two_meanings_and_a_marked_word_are_found(tmp_path: Path) -> None:
    twin = '"""For whoever reads it."""\n\n\nclass Step:\n    pass\n'
    root = project(tmp_path, **SOUND, pipeline__schedule__steps=twin)
    assert set(beyond(root)) == {
        "public names with several meanings",
        "marked words per 1 000 lines",
    }


def test_a_folder_of_27_modules_is_too_large(tmp_path: Path) -> None:
    many = {f"kernels__kernel_{n}": "" for n in range(27)}
    assert beyond(project(tmp_path, **SOUND, **many)) == {
        "modules in the largest folder": "27 (kernels)"
    }


def test_this_project_is_within_all_bounds() -> None:
    found = [figure for figure in figures(Path(__file__).resolve().parents[2]) if not figure.within]
    assert not found

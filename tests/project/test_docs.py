"""What the documents say is what there is."""

import asyncio
import re
import tomllib
from pathlib import Path

import pytest
from screenshots import PICTURES, draw, key_page

from loraconsole.console.commands.table import COMMANDS
from loraconsole.console.settings.keymap import with_known_keys
from loraconsole.console.settings.settings import read_settings
from loraconsole.console.settings.theme_files import ThemeShelf
from loraconsole.console.state.alerts import RULES, AlertLimits
from loraconsole.console.ui.bindings import catalogue
from loraconsole.pipeline.adapter_files.peft_refusals import OTHER_INIT, UNSUPPORTED
from loraconsole.pipeline.adapter_name import LONGEST_NAME, SIGNS
from loraconsole.pipeline.model_files.config_keys import HARMLESS, READ, REFUSED
from loraconsole.pipeline.model_files.families import FAMILY_REFUSED
from loraconsole.pipeline.model_files.rope import OPTIONAL, REQUIRED

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
ALL = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
MOST_README_LINES = 150


def anchors(page: Path) -> set[str]:
    """What links to a heading of this page end with, as GitHub makes it: lower case, no signs."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def named_files(text: str) -> set[str]:
    """Paths from the root that a page names, and those of its tables of rooms: "`room/`" in the
    first column, files of that room in the third, under "`floor/`"."""
    found = set(re.findall(r"`((?:console|pipeline|kernels|themes|tests|docs)/[\w./-]*)`", text))
    floor = ""
    for row in re.findall(r"^\| `([\w./]+)` \|(.*)$", text, re.MULTILINE):
        room, _, files = row[0], *row[1].split("|")[:2]
        if files.strip() == "main files":
            floor = room
        elif floor and files.strip():
            found |= {
                f"{floor}{room}",
                *(f"{floor}{room.rstrip('.')}{file}" for file in re.findall(r"`([^`]+)`", files)),
            }
    return found


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_every_link_and_picture_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    missing = {name for name in named_files(page.read_text()) if not (ROOT / name).exists()}
    assert not missing


def test_the_file_map_names_every_room() -> None:
    named = {
        name.rstrip("/") for name in named_files((ROOT / "docs" / "architecture.md").read_text())
    }
    rooms = {
        str(path.parent.relative_to(ROOT))
        for floor in ("console", "pipeline")
        for path in (ROOT / floor).rglob("__init__.py")
    }
    assert rooms - {"console", "pipeline"} <= named


def test_a_page_with_pictures_says_that_they_are_simulated() -> None:
    for page in ALL:
        text = page.read_text()
        assert "](pictures/" not in text.replace("docs/", "") or "simulated" in text, page.name


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < MOST_README_LINES


def test_every_picture_is_shown_and_small() -> None:
    shown = "".join(page.read_text() for page in ALL)
    for picture in PICTURES:
        file = ROOT / "docs" / "pictures" / f"{picture.name}.svg"
        assert f"pictures/{picture.name}.svg" in shown
        assert file.stat().st_size < 48_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "wanted"),
    [("alerts", ["long queue"]), ("prompt", ["pirate", "haiku", "37.4", "Soft as a feather"])],
)
def test_a_picture_is_the_same_when_it_is_drawn_again(name: str, wanted: list[str]) -> None:
    (picture,) = [picture for picture in PICTURES if picture.name == name]

    async def twice() -> tuple[str, str]:
        return await draw(picture), await draw(picture)

    one, other = asyncio.run(twice())
    assert one == other
    assert all(word in one.replace("\N{NO-BREAK SPACE}", " ") for word in wanted)


def test_the_list_of_keys_is_what_the_bindings_say() -> None:
    assert (ROOT / "docs" / "keys.md").read_text() == key_page(), "run: make screenshots"


def test_the_settings_page_names_every_limit_and_theme_and_its_examples_are_right(
    tmp_path: Path,
) -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    for rule in RULES:
        if rule.limit:
            assert f"`{rule.limit}` = {getattr(AlertLimits(), rule.limit):g}" in text
    shelf = ThemeShelf()
    shelf.refresh()
    assert all(f"`{name}`" in text for name in shelf.themes)
    settings, theme = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "console.toml"
    file.write_text(settings)
    assert with_known_keys(read_settings(file), catalogue()).problems == ()
    assert tomllib.loads(theme)["name"] == "mine"


def test_the_adapters_page_names_all_that_is_refused_and_the_rule_for_names() -> None:
    text = (ROOT / "docs" / "adapters.md").read_text()
    refused = [*UNSUPPORTED, *(f"{start}_N" if "niter" in start else start for start in OTHER_INIT)]
    assert [name for name in refused if f"`{name}`" not in text] == []
    assert f"`{SIGNS}`, at most {LONGEST_NAME} characters" in text


def test_every_verb_that_the_documents_use_exists() -> None:
    for page in ALL:
        for verb in re.findall(r"^\s*loraconsole ([a-z]+)", page.read_text(), re.MULTILINE):
            assert verb in {known.NAME for known in COMMANDS}, f"{page.name}: loraconsole {verb}"


def test_the_page_of_models_names_every_key_and_no_other() -> None:
    """Of config.json in the lists, of rotation in the table."""
    text = (ROOT / "docs" / "models.md").read_text()
    lists = {
        "\nRead: ": READ,
        "Known to change nothing: ": HARMLESS,
    }
    for start, keys in lists.items():
        listed = text.partition(start)[2].partition(".\n")[0].partition(", and all that")[0]
        assert set(re.findall(r"`([^`]+)`", listed)) == keys
    table = text.partition("| key | unless | why |")[2].partition("\n\n")[0]
    refused = {key for row in table.splitlines()[2:] for key in re.findall(r"`(\w+)`", row)}
    families = {key for keys in FAMILY_REFUSED.values() for key in keys}
    assert (REFUSED.keys() | families) <= refused
    rows = text.partition("| `rope_type` | needs | may have |")[2].partition("\n\n")[0]
    for kind, needed in REQUIRED.items():
        (row,) = [row for row in rows.splitlines() if row.startswith(f"| `{kind}` |")]
        assert set(re.findall(r"`(\w+)`", row)) == {kind, *needed, *OPTIONAL[kind]}

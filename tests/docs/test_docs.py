"""The documentation agrees with the code."""

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from infra.cli import COMMANDS, cli
from infra.exits import MEANINGS
from infra.reference import PEOPLE_VIEWS, cli_context, reference, setting_rows, view_comments

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "docs/reference.md"]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def command_lines(page: str) -> list[str]:
    """Return every `freshet ...` line of a page's code blocks, continuation lines joined."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text(page), flags=re.MULTILINE | re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    lines = (line.removeprefix("$ ").strip() for line in joined.splitlines())
    return [line for line in lines if re.match(r"freshet [a-z]+( |$)", line)]


def test_the_reference_is_what_the_code_says():
    assert text("docs/reference.md") == reference(), "run `make reference`"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_row_in_the_readme_and_is_in_the_changelog(name):
    rows = [line for line in text("README.md").splitlines() if line.startswith(f"| `{name}")]
    assert len([row for row in rows if re.match(rf"\| `{name}[` ]", row)]) == 1
    assert re.search(rf"`{name}[` ]", text("CHANGELOG.md"))


def test_every_setting_has_a_meaning():
    missing = [key for key, _, meaning in setting_rows() if not meaning]
    assert not missing


def test_every_exit_code_and_view_is_in_the_reference():
    page = text("docs/reference.md")
    assert all(f"| {code} | {meaning} |" in page for code, meaning in MEANINGS.items())
    comments = view_comments()
    for view in PEOPLE_VIEWS:
        assert f"### {view}" in page
        assert view in comments
    for view in ("user_token_state", "token_staleness", "user_timeline", "ingest_lag", "coverage"):
        assert view in text("README.md")


@pytest.mark.parametrize("page", PAGES[:2])
def test_every_command_line_of_a_page_can_be_typed(page):
    context = cli_context()
    for line in command_lines(page):
        name, *arguments = shlex.split(line, comments=True)[1:]
        command = cli.get_command(context, name)
        assert command is not None, line
        if isinstance(command, click.Group):
            name, *arguments = arguments
            command = command.commands[name]
        command.make_context(name, list(arguments), parent=context)


@pytest.mark.parametrize("page", PAGES)
def test_paths_named_on_a_page_exist(page):
    named = re.findall(r"`((?:docs|infra|model|storage|stream|tests|\.ci)/[\w./-]+)`", text(page))
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", text(page))
    missing = [path for path in (*named, *links) if not (ROOT / path).exists()]
    assert not missing


def test_make_targets_named_on_a_page_exist():
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), flags=re.MULTILINE))
    for page in PAGES[:2]:
        assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text(page), flags=re.MULTILINE)) <= targets


def test_decisions_are_numbered_without_holes_and_have_their_parts():
    pages = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{n:04d}" for n in range(1, len(pages) + 1)]
    for page in pages:
        content = page.read_text(encoding="utf-8")
        assert content.startswith(f"# {page.name[:4]} ")
        for part in ("Status:", "**Context.**", "**Decision.**", "**Consequences.**"):
            assert part in content, page.name


def test_constraints_pin_every_dependency_and_name_no_address():
    lines = [line for line in text("constraints.txt").splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9._-]+==[0-9][0-9a-z.+]*", line) for line in lines)
    pinned = {line.split("==")[0].replace("_", "-") for line in lines}
    project = tomllib.loads(text("pyproject.toml"))["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    names = {re.match(r"[A-Za-z0-9_-]+", line).group().lower() for line in wanted}
    assert names <= pinned


def test_the_license_is_apache_and_the_data_is_attributed():
    assert "Apache License" in text("LICENSE")
    attribution = text("infra/data/online_retail_ii/ATTRIBUTION.md")
    for part in ("Daqing", "10.24432/C5CG6D", "CC BY 4.0", "What was changed"):
        assert part in attribution

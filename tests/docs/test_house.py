"""The limits of the house: size of files and functions, documented names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("infra", "stream", "model", "storage")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
SOURCES = [
    path.relative_to(ROOT) for name in (*PACKAGES, "tests") for path in (ROOT / name).rglob("*.py")
]
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def definitions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    return (node for node in ast.walk(tree) if isinstance(node, DEFINITIONS))


def public(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Yield public functions, classes, and the public methods of public classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, DEFINITIONS) and not child.name.startswith("_"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public(child)


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_files_and_functions_stay_small(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES
    long = [
        node.name
        for node in definitions(ast.parse(text))
        if not isinstance(node, ast.ClassDef)
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[0] in PACKAGES], ids=str)
def test_every_public_name_is_documented(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    missing = [node.name for node in public(tree) if not ast.get_docstring(node)]
    assert not missing
    assert ast.get_docstring(tree)


def test_every_package_says_that_it_is_typed():
    assert all((ROOT / name / "py.typed").exists() for name in PACKAGES)

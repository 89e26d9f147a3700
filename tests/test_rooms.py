"""The rooms of the house: who may import whom, and what importing must not do."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "hilum": set[str](),
    "db": {"hilum"},
    "dicom_listener": {"db", "hilum"},
    "worker": {"db", "hilum"},
    "training": {"db", "hilum"},
    "console": {"db", "hilum"},
}
SIBLINGS = {"dicom_listener", "worker", "training", "console"}
COMMAND_LINE = Path("console/cli")
"""It alone may import its siblings, inside the command that needs them."""
RUN_BY_ALEMBIC = "db.migrations."


def rooms_imported(nodes: Iterator[ast.AST]) -> set[str]:
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room they come from"
            found.add((node.module or "").split(".")[0])
    return found & MAY_IMPORT.keys()


def outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from outside_functions(node)


def modules_of(room: str) -> list[str]:
    paths = sorted((ROOT / room).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names if not name.startswith(RUN_BY_ALEMBIC)]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    for path in sorted((ROOT / room).rglob("*.py")):
        tree = ast.parse(path.read_text(), str(path))
        is_command_line = path.relative_to(ROOT).is_relative_to(COMMAND_LINE)
        others = rooms_imported(outside_functions(tree) if is_command_line else ast.walk(tree)) - {room}
        assert others <= MAY_IMPORT[room], f"{path.relative_to(ROOT)} imports {others - MAY_IMPORT[room]}"


def run_alone(code: str) -> str:
    """What a fresh interpreter prints for this code."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "modules",
    [modules_of("db"), modules_of("dicom_listener"), modules_of("console"), ["worker.app"]],
    ids=["db", "dicom_listener", "console", "worker.app"],
)
def test_a_process_without_a_network_does_not_import_torch(modules: list[str]) -> None:
    imports = "; ".join(f"import {name}" for name in modules)
    loaded = run_alone(f"import sys; {imports}; print(*{{'torch', 'torchvision'}} & sys.modules.keys())")
    assert loaded == ""


WATCHED = """
import sys
watched = {"socket.connect", "socket.bind", "socket.getaddrinfo", "sqlite3.connect"}
tries_ipv6 = ("::1", 0)  # urllib3 does, which MLflow brings and pydicom imports where it is
def watch(event, arguments):
    if event in watched and arguments[1:] != (tries_ipv6,):
        print(event, arguments)
sys.addaudithook(watch)
"""


@pytest.mark.parametrize("room", ["hilum", "db", "dicom_listener", "console"])
def test_importing_a_room_opens_no_socket_and_no_database(room: str) -> None:
    imports = "\n".join(f"import {name}" for name in modules_of(room))
    assert run_alone(WATCHED + imports) == ""

"""What the documents say about the code is true of the code."""

import json
import re
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from console.cli import app
from db.tables import DeliveryState, JobState, StudyState
from dicom_listener import status
from hilum.labels import CODES
from hilum.radiograph import decodable_transfer_syntaxes
from hilum.settings import Destination, Sender, Settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def read(name: str) -> str:
    return (ROOT / name).read_text()


def rows(model: type[BaseModel]) -> list[str]:
    """A row of a table for each setting: its name, default and meaning."""
    return [
        f"| `{name}` | {_default(model, name)} | {field.description} |"
        for name, field in model.model_fields.items()
    ]


def _default(model: type[BaseModel], name: str) -> str:
    field = model.model_fields[name]
    if field.is_required():
        return "required"
    if field.default_factory is not None:
        return "computed"
    if field.default in (None, "", ()):
        return ""
    return f"`{json.dumps(field.default, default=str)}`"


@pytest.mark.parametrize("model", [Settings, Sender, Destination], ids=lambda model: model.__name__)
def test_every_setting_stands_in_the_configurations_document(model: type[BaseModel]) -> None:
    document = read("docs/configuration.md")
    assert [row for row in rows(model) if row not in document] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text())
    inside = [link for link in links if "://" not in link]
    assert [link for link in inside if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_that_are_named_exist(path: Path) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    named = set(re.findall(r"(?:`|bin/|    |deliver )hilum ([a-z]+)", path.read_text()))
    assert named <= commands.keys()


def test_every_state_is_explained() -> None:
    explained = read("docs/study.md") + read("docs/operations.md")
    states = [*StudyState, *JobState, *DeliveryState]
    assert [state for state in states if f"| `{state.value}` |" not in explained] == []


def test_the_conformance_statement_names_what_is_spoken() -> None:
    said = read("docs/conformance.md")
    uids = [str(uid) for uid in decodable_transfer_syntaxes()]
    assert [uid for uid in uids if f"{uid} |" not in said and f".{uid.rpartition('.')[2]}" not in said] == []
    codes = [value for name, value in vars(status).items() if name.isupper()]
    assert [hex(code) for code in codes if f"| 0x{code:04X} |" not in said] == []
    assert [value for value, _, _ in CODES.values() if value not in said] == []

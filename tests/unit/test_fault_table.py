"""What the fault rig writes into a document."""

from pathlib import Path

import pytest

from tests.faults.table import Findings


@pytest.fixture
def document(tmp_path: Path) -> Path:
    document = tmp_path / "reliability.md"
    document.write_text("# Reliability\n\nWords.\n")
    return document


def found(name: str, lost: str) -> Findings:
    return Findings(name, "Some minutes.", f"faults: {lost} lost", [[["fault", "lost"], ["disk full", lost]]])


def test_a_run_stands_behind_what_the_document_said(document: Path) -> None:
    found("sqlite, seed 1", "0").write_into(document)
    assert document.read_text() == (
        "# Reliability\n\nWords.\n\n"
        "<!-- run: sqlite, seed 1 -->\n"
        "### sqlite, seed 1\n\n"
        "Some minutes.\n\n"
        "| fault | lost |\n| --- | ---: |\n| disk full | 0 |\n\n"
        "`faults: 0 lost`\n"
        "<!-- end of run: sqlite, seed 1 -->\n"
    )


def test_the_same_run_again_takes_its_place_and_leaves_others_alone(document: Path) -> None:
    found("sqlite, seed 1", "7").write_into(document)
    found("sqlite, seed 2", "0").write_into(document)
    before = document.read_text()
    found("sqlite, seed 1", "8").write_into(document)
    assert document.read_text() == before.replace("7", "8")

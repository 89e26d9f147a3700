"""Lists of labels: all of a list or nothing, and every fault by its line."""

import csv
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as some
from sqlalchemy import select

from console.label_file import WrongLabels
from db import studies, verdicts
from db.session import transaction
from db.tables import Audit, Instance, Study, Verdict
from tests.integration.examples import an_object
from tests.unit.test_cli import run

pytestmark = pytest.mark.usefixtures("database_url")


def an_image(study_uid: str, uid: str, accession: str = "", **changes: object) -> str:
    received = an_object(
        study_uid=study_uid, series_uid=f"{study_uid}.1", uid=uid, accession_number=accession
    )
    with transaction() as session:
        studies.record(session, received, settle_s=0)
        instance = session.get_one(Instance, uid)
        for name, value in ({"prepared": True, "prepared_path": "prepared/1"} | changes).items():
            setattr(instance, name, value)
    return uid


def a_list(tmp_path: Path, text: str | bytes) -> str:
    file = tmp_path / "labels.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def standing() -> dict[tuple[str, str], str]:
    with transaction() as session:
        return {(each.uid, each.author): each.label for each, _ in verdicts.all_standing(session)}


def test_a_list_names_images_studies_and_accession_numbers(tmp_path: Path) -> None:
    an_image("1.1", "1.1.9")
    for uid in ("1.2.8", "1.2.9"):
        an_image("1.2", uid)
    an_image("1.2", "1.2.10", prepared_path="", not_assessed_because="the view is lateral")
    an_image("1.3", "1.3.9", "A3")
    file = a_list(
        tmp_path,
        "sop_instance_uid,study_uid,accession_number,label,author,comment,room,time\n"
        "1.1.9,,,covid 19,Dr. R,=1+1,7,2026-01-02 03:04\n"
        ",1.2,,NORMAL,Dr. R,,7,\n"
        '"1.3.9",1.3,A3,rejected,,"two\nlines",7,\n',
    )
    status, said = run("labels", "import", file, "--author", "Dr. S", "--dry-run")
    assert (status, standing()) == (0, {})
    assert "would be taken: 4 new" in said
    status, said = run("labels", "import", file, "--author", "Dr. S")
    assert "columns passed over: room" in said
    assert standing() == {
        ("1.1.9", "Dr. R"): "COVID-19",
        ("1.2.8", "Dr. R"): "Normal",
        ("1.2.9", "Dr. R"): "Normal",
        ("1.3.9", "Dr. S"): "Rejected",
    }
    with transaction() as session:
        [first, *_, last] = verdicts.new_since(session, None)
        assert first.comment == "=1+1"
        assert first.said_at == datetime(2026, 1, 2, 3, 4).astimezone(UTC)
        assert (last.comment, last.source) == ("two lines", "csv")
        [noted] = session.scalars(select(Audit).where(Audit.action == "labels import"))
        assert noted.detail == "labels.csv: 4 new"
    assert "taken: 4 said before" in run("labels", "import", file, "--author", "Dr. S")[1]
    assert "two lines" in run("show", "A3")[1]
    assert "Rejected" in run("labels", "list", "A3")[1]


def test_every_fault_is_told_by_its_line_and_nothing_is_taken(tmp_path: Path) -> None:
    an_image("1.1", "1.1.9", "A")
    an_image("1.2", "1.2.9", "A")
    an_image("1.3", "1.3.9", "B", prepared_path="", not_assessed_because="it looks like no chest")
    an_image("1.4", "1.4.9")
    with transaction() as session:
        session.get_one(Study, "1.4").phantom = True
    lines = {
        "1.1.9,,,Normal,Dr. R,,": "",
        "1.1.9,,,Other,Dr. R,,": "line 3: it contradicts (Normal) line 2",
        ",1.1,,Normal,Dr. R,,": "line 4: it says the same as line 2",
        "1.9,,,Normal,,,": "line 5: there is no image 1.9",
        ",1.9,,Normal,,,": "line 6: there is no study 1.9",
        ",,C,Normal,,,": "line 7: no study has the accession number 'C'",
        ",,A,Normal,,,": "line 8: 2 studies have the accession number 'A'",
        "1.1.9,1.2,,Normal,,,": "line 9: the image 1.1.9 is of another study",
        ",1.3,A,Normal,,,": "line 10: the study 1.3 has another accession number",
        ",,B,Normal,,,": "line 11: no image of the study 1.3 was assessed",
        "1.1.9,,,Effusion,,,": "line 12: 'Effusion' is none of Normal, ",
        ",,,Normal,,,": "line 13: it names no image",
        "1.2E+10,,,Normal,,,": "line 14: '1.2E+10' is what a spreadsheet made of a number",
        "../1,,,Normal,,,": "line 15: '../1' is no UID",
        "1.1.9,,,Normal,a\x1b[2J,,": "line 16: it holds control characters",
        "1.1.9,,,Normal,,,24.11.2026": "line 17: '24.11.2026' is no time",
        "1.1.9,,,Normal,,,2999-01-01": "line 18: '2999-01-01' has still to come",
        "1.4.9,,,Normal,,,": "line 19: it is a phantom",
        f"1.1.9,,,Normal,{'a' * 129},,": "line 20: an author has at most",
        "1.1.9,,,Normal,,,,,": "line 21: it has too many columns",
    }
    header = "sop_instance_uid,study_uid,accession_number,label,author,comment,time\n"
    with pytest.raises(WrongLabels) as wrong:
        run("labels", "import", a_list(tmp_path, header + "\n".join(lines)))
    told = str(wrong.value)
    assert [said for said in lines.values() if said not in told] == []
    assert "mend 19 lines" in told
    assert standing() == {}


def test_what_changes_is_shown_with_whom_it_contradicts(tmp_path: Path) -> None:
    for uid in ("1.1.1", "1.1.2", "1.1.3"):
        an_image("1.1", uid)
    with transaction() as session:
        verdicts.add(session, "1.1.1", "Normal", "Dr. R", "console")
        verdicts.add(session, "1.1.1", "Other", "Dr. S", "console")
        verdicts.add(session, "1.1.2", "Normal", "Dr. R", "console")
    file = a_list(
        tmp_path,
        "sop_instance_uid;label;author;time\n"
        "1.1.1;Pneumonia;Dr. R;\n1.1.2;Other;Dr. R;2020-01-01\n1.1.3;Normal;Dr. R;\n1.1.3;Other;Dr. S;",
    )
    said = run("labels", "import", file)[1]
    assert "supersedes Normal" in said and "Dr. S: Other" in said
    assert "said otherwise since Normal" in said
    told = "taken: 2 new, 1 supersedes, 1 said otherwise since, 3 of another opinion than others"
    assert told in said
    assert standing()["1.1.1", "Dr. R"] == "Pneumonia"
    assert standing()["1.1.2", "Dr. R"] == "Normal"
    with transaction() as session:
        assert verdicts.labelled_images(session)[0].instance.uid == "1.1.2"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_lists_are_read_as_spreadsheets_write_them(tmp_path: Path, encoding: str, separator: str) -> None:
    an_image("1.1", "1.1.1")
    text = "Study UID,Label,Author\r\n1.1,Normal,Dr. Müller\r\n,,\r\n".replace(",", separator)
    if separator == ";":
        text = f"sep=;\r\n{text}"
    run("labels", "import", a_list(tmp_path, text.encode(encoding)))
    assert standing() == {("1.1.1", "Dr. Müller"): "Normal"}


def test_what_is_exported_comes_in_again_and_changes_nothing(tmp_path: Path) -> None:
    for number, author in enumerate(("=Dr. R", "@x", "Dr. S")):
        an_image("1.1", f"1.1.{number}")
        with transaction() as session:
            verdicts.add(session, f"1.1.{number}", "Other", author, "console", '-1;"2"')
    file = tmp_path / "out.csv"
    assert "3 verdicts in" in run("labels", "export", str(file))[1]
    assert file.stat().st_mode & 0o777 == 0o600
    with file.open(encoding="utf-8-sig", newline="") as lines:
        assert [row["author"] for row in csv.DictReader(lines)] == ["'=Dr. R", "'@x", "Dr. S"]
    before = standing()
    assert "taken: 3 said before" in run("labels", "import", str(file))[1]
    assert standing() == before
    with pytest.raises(FileExistsError):
        run("labels", "export", str(file))


@pytest.mark.parametrize(
    "content", [b"", b"label\nNormal\n", b"study_uid,label,label\n", b"\x81\x8d", b'study_uid,label\n"a\n']
)
def test_what_is_no_list_of_labels_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(WrongLabels):
        run("labels", "import", a_list(tmp_path, content))


@given(content=some.binary(max_size=200) | some.text(max_size=200).map(str.encode))
@trying(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_wild_content_is_refused_or_told_by_line(tmp_path: Path, content: bytes) -> None:
    for header in (b"", b"sop_instance_uid,label,author,comment,time\n"):
        try:
            run("labels", "import", a_list(tmp_path, header + content))
        except WrongLabels as wrong:
            assert str(wrong).replace("\n", "").isprintable()
    with transaction() as session:
        assert session.scalars(select(Verdict)).all() == []

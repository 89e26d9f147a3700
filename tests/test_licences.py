"""Everything that runs in production has a licence that deploy/licences.toml allows."""

import re
import tomllib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
POLICY: dict[str, Any] = tomllib.loads((ROOT / "deploy" / "licences.toml").read_text())
_LONGEST_NAME = 60
"""Some packages put the whole text of their licence where its name belongs."""


def required() -> list[Distribution]:
    """What the base and all extras but that for tests bring, as far as it is installed here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    found: dict[str, Distribution] = {}
    ours = [each for name in extras if name != "test" for each in extras[name]]
    _follow([*project["dependencies"], *ours], {""}, found)
    return [found[name] for name in sorted(found)]


def _follow(requirements: Iterable[str], extras: set[str], found: dict[str, Distribution]) -> None:
    for each in map(Requirement, requirements):
        if each.marker and not any(each.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = re.sub(r"[-_.]+", "-", each.name).lower()
        if name in found and not each.extras:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # not for this machine, or not asked for
        found[name] = package
        _follow(package.requires or [], {"", *each.extras}, found)


def licences(package: Distribution) -> Iterator[str]:
    """The licences a package names: the SPDX expression's, or else those of its older fields."""
    said = package.metadata
    if "License-Expression" in said:
        for part in re.split(r" AND ", said["License-Expression"].replace("(", "").replace(")", "")):
            yield min(part.split(" OR "), key=lambda name: name not in POLICY["allowed"])
        return
    classifiers = [line for line in said.get_all("Classifier", []) if line.startswith("License ::")]
    names = [line.rpartition(" :: ")[2] for line in classifiers if "OSI Approved" in line]
    field = said["License"].strip() if "License" in said else ""
    if not names and field and len(field) < _LONGEST_NAME:
        names = [field]
    yield from names or ["none that it names"]


def objections(package: Distribution) -> list[str]:
    name = re.sub(r"[-_.]+", "-", package.name).lower()
    if any(fnmatch(name, pattern) for pattern in POLICY["exceptions"]):
        return []
    named = [POLICY["spellings"].get(each, each) for each in licences(package)]
    return [f"{name}: {each}" for each in named if each not in POLICY["allowed"]]


def test_every_package_of_production_has_an_allowed_licence() -> None:
    packages = required()
    assert {"celery", "pydicom", "psycopg", "torch"} <= {package.name.lower() for package in packages}
    assert [objection for package in packages for objection in objections(package)] == []


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("License-Expression: GPL-3.0-only", ["made-up: GPL-3.0-only"]),
        ("License-Expression: MIT AND AGPL-3.0-or-later", ["made-up: AGPL-3.0-or-later"]),
        ("License-Expression: GPL-2.0-only OR MIT", []),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)", ["GNU General"]),
        ("License: MIT License", []),
        ("Summary: silent", ["made-up: none that it names"]),
    ],
)
def test_what_is_not_allowed_is_named(tmp_path: Path, metadata: str, said: list[str]) -> None:
    folder = tmp_path / "made_up-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: made-up\nVersion: 1\n{metadata}\n")
    found = objections(Distribution.at(folder))
    assert len(found) == len(said)
    assert all(words in line for words, line in zip(said, found, strict=True))


def test_no_exception_is_left_over() -> None:
    names = [re.sub(r"[-_.]+", "-", package.name).lower() for package in required()]
    idle = [pattern for pattern in POLICY["exceptions"] if not any(fnmatch(name, pattern) for name in names)]
    assert [pattern for pattern in idle if not pattern.endswith("*")] == []

"""What the gate said of a training's network, as people see it."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.text import Text

from console.tables import add, plain, table

_STYLES = {"worse": "red", "not shown to be as good": "red", "better": "green", "too few cases": "dim"}


def rendered(gate: Mapping[str, Any]) -> Group:
    """Return what `training_runs.gate` holds: the sentences, then the figures that they rest on.

    Of the classes within a source, view, sex or age group only those are shown that got worse.
    """
    words = Text("\n".join(plain(each) for each in gate["sentences"]))
    words.stylize("bold green" if gate["passed"] else "bold red", 0, len(gate["sentences"][0]))
    figures = table(
        "",
        ("slice", "figure", "patients", "champion", "challenger", "gain (95 %)", "outcome"),
        numbers=("patients", "champion", "challenger", "gain (95 %)"),
    )
    for each in gate["comparisons"]:
        if _is_shown(each):
            add(
                figures,
                each["slice"],
                each["figure"],
                str(each["patients"]),
                f"{each['champion']:.3f}",
                f"{each['challenger']:.3f}",
                f"{each['gain']:+.3f} ({each['low']:+.3f} to {each['high']:+.3f})",
                each["outcome"],
                style=_STYLES.get(each["outcome"]),
            )
    phantoms = gate["phantoms"]
    return Group(
        words,
        figures,
        Text(
            f"phantoms answered rightly: {phantoms['challenger']} of {phantoms['images']}, "
            f"by the champion {phantoms['champion']}"
        ),
    )


def _is_shown(comparison: Mapping[str, Any]) -> bool:
    is_class_in_group = comparison["label"] and comparison["slice"] != "radiographs"
    return not is_class_in_group or comparison["outcome"] == "worse"

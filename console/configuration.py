"""`hilum.toml` as `hilum init` writes it: every setting with its meaning, unit and default."""

import json
import textwrap
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hilum.settings import Destination, Sender, Settings

_HEAD = """\
# Hilum's configuration. A line without # is in force; the others show what holds without them.
# HILUM_<NAME> in the environment goes before this file. SIGHUP to `hilum up` has it read anew.
"""
_EXAMPLES: dict[str, Any] = {
    "ae_title": "PACS",
    "addresses": ["10.1.0.0/16"],
    "destinations": ["pacs"],
    "name": "pacs",
    "host": "pacs.example",
    "port": 104,
    "called_ae_title": "HILUM",
    "objects_per_minute": 600,
    "listener_tls_port": 2762,
    "query_ae_title": "PACS",
    "retrieve": "c-move",
}


def commented() -> str:
    """Return the text of a hilum.toml in which every line is a comment."""
    plain = [
        _setting(name, field)
        for name, field in Settings.model_fields.items()
        if name not in ("senders", "destinations")
    ]
    tables = [_example("senders", Sender), _example("destinations", Destination)]
    return "\n".join([_HEAD, *plain, *tables])


def _setting(name: str, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    value = _toml(_EXAMPLES.get(name, "/path") if default is None else default)
    return _described(field) + f"# {name} = {value}\n"


def _example(name: str, model: type[BaseModel]) -> str:
    description = Settings.model_fields[name].description
    lines = [f"# {name}: {description}. A block like this for each:\n#\n# [[{name}]]\n"]
    for key, field in model.model_fields.items():
        default = None if field.is_required() else field.get_default()
        value = _EXAMPLES.get(key, default)
        lines.append(_described(field) + f"# {key} = {_toml(value)}\n")
    return "".join(lines)


def _described(field: FieldInfo) -> str:
    return textwrap.fill(field.description or "", 100, initial_indent="## ", subsequent_indent="## ") + "\n"


def _toml(value: object) -> str:
    if isinstance(value, Path):
        return json.dumps(str(value))
    return json.dumps(value)  # of strings, numbers, truth and lists, JSON's form is TOML's

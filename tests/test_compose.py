"""What production starts from: docker-compose accepts it, and it says what the code says."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from console.programs import programs
from hilum.queue import QUEUES
from hilum.settings import CONFIG_VARIABLE, Settings, settings
from tests.conftest import SettingsChange
from tests.peers.helpers import program

ROOT = Path(__file__).parents[1]
BASE, GPU = "docker-compose.yml", "deploy/docker-compose.gpu.yml"
SERVERS = {"postgres", "redis"}


def compose(*arguments: str) -> str:
    """What docker-compose says with the example's environment; it needs no engine for that."""
    binary = program("docker-compose", debian="docker-compose")
    command = [binary, "--env-file", "deploy/example.env", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def commands() -> list[list[str]]:
    """The command of each service, as the file gives it."""
    return [json.loads(found) for found in re.findall(r"command: (\[.*\])", (ROOT / BASE).read_text())]


@pytest.mark.parametrize("files", [[BASE], [BASE, GPU]], ids=["cpu", "gpu"])
def test_compose_accepts_the_files(files: list[str]) -> None:
    named = [argument for file in files for argument in ("-f", file)]
    compose(*named, "--profile", "training", "config", "-q")


def test_every_process_has_a_service() -> None:
    services = set(compose("--profile", "training", "config", "--services").split())
    assert services == SERVERS | {
        "migrate", "listener", "prepare", "classify", "deliver", "sweep", "training", "beat"
    }  # fmt: skip


def test_without_a_password_compose_says_what_to_do(tmp_path: Path) -> None:
    empty = tmp_path / "empty.env"
    empty.write_text("")
    binary = program("docker-compose", debian="docker-compose")
    done = subprocess.run(
        [binary, "--env-file", str(empty), "config", "-q"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "set it in .env" in done.stderr


def test_every_queue_has_a_worker() -> None:
    asked_for = [command[command.index("-Q") + 1] for command in commands() if "-Q" in command]
    assert sorted(",".join(asked_for).split(",")) == sorted(
        {name for names in QUEUES.values() for name in names}
    )


def test_workers_are_started_as_hilum_up_starts_them(hilum_env: SettingsChange) -> None:
    def essence(argv: list[str]) -> tuple[str, ...]:
        return tuple(argv[argv.index(word) + 1] for word in ("-A", "-Q", "--pool", "-n"))

    here = {essence(list(each.argv)) for each in programs(hilum_env()) if "-Q" in each.argv}
    assert {essence(command) for command in commands() if "-Q" in command} == here


@pytest.mark.parametrize("file", [BASE, GPU, "deploy/Dockerfile"])
def test_every_variable_is_a_setting(file: str) -> None:
    variables = set(re.findall(r"\bHILUM_[A-Z_]+\b", (ROOT / file).read_text())) - {CONFIG_VARIABLE}
    assert variables
    assert {name.removeprefix("HILUM_").lower() for name in variables} <= Settings.model_fields.keys()


def test_the_example_configuration_is_a_valid_one(
    hilum_env: SettingsChange, monkeypatch: pytest.MonkeyPatch
) -> None:
    hilum_env()
    monkeypatch.setenv(CONFIG_VARIABLE, str(ROOT / "deploy" / "hilum.example.toml"))
    settings.cache_clear()
    assert [place.name for place in settings().destinations_of("EMERGENCY")] == ["archive"]


def test_the_image_has_the_servers_own_programs_for_backups() -> None:
    [server] = re.findall(r"image: postgres:(\d+)", (ROOT / BASE).read_text())
    assert f"postgresql-client-{server} " in (ROOT / "deploy" / "Dockerfile").read_text()

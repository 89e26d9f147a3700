"""What an operator can turn: one frozen value, read from `hilum.toml` and `HILUM_*` on first use."""

import json
import os
import tomllib
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as NotReadable
from sqlalchemy import make_url

from hilum import urls
from hilum.errors import SettingsError
from hilum.kernel import keep_from_others
from hilum.peers import AeTitle, Destination, Port, Sender

__all__ = [
    "CONFIG_VARIABLE",
    "LONGEST_SOCKET_PATH",
    "Destination",
    "Sender",
    "Settings",
    "config_file",
    "settings",
]

CONFIG_VARIABLE = "HILUM_CONFIG"
"""Names the configuration file; without it `hilum.toml` in the working folder, if there is one."""

LONGEST_SOCKET_PATH = 100
"""Characters: a Unix socket's path ends at 107 (unix(7))."""

_PATHS = (
    "data_dir",
    "store_dir",
    "network_dir",
    "tls_certificate",
    "tls_key",
    "tls_ca",
    "console_tls_certificate",
    "console_tls_key",
    "database_password_file",
    "broker_password_file",
)
_EXPLAINED = "docs/configuration.md explains every setting, and `hilum init -` prints them"


class Settings(BaseSettings):
    """Every setting with its unit and default."""

    model_config = SettingsConfigDict(env_prefix="HILUM_", frozen=True, extra="forbid")

    data_dir: Path = Field(
        Path("hilum-data"),
        description="folder of all that Hilum keeps by default; folders in the file are seen from there",
    )
    database_url: Annotated[str, AfterValidator(urls.database_url)] = Field(
        "", repr=False, description="SQLAlchemy URL (postgresql+psycopg://...); empty: SQLite in data_dir"
    )
    database_password_file: Path | None = Field(
        None, description="file of the password that belongs into database_url"
    )
    broker_url: Annotated[str, AfterValidator(urls.broker_url)] = Field(
        "",
        repr=False,
        description="redis:// or rediss:// URL of the Celery broker; empty: the Valkey that `hilum up` "
        "embeds",
    )
    broker_password_file: Path | None = Field(
        None, description="file of the password that belongs into broker_url"
    )
    store_dir: Path | None = Field(
        None, description="folder of the file store, shared by all processes; left out: data_dir/store"
    )
    network_dir: Path | None = Field(
        None, description="folder of the network's artefact; left out: the one shipped with Hilum"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where the network runs: cpu, cuda, or auto, which is cuda where there is one"
    )
    precision: Literal["auto", "int8"] = Field(
        "auto",
        description="what the network computes with: auto, the best that the device is made for "
        "(bf16 or fp32), or int8 on the processor, for a network that has it",
    )

    listener_host: str = Field("127.0.0.1", description="address the listener binds; 0.0.0.0: all")
    listener_port: Port = Field(11112, description="TCP port of the listener")
    listener_tls_port: Port | None = Field(
        None,
        description="TCP port of the listener for DICOM TLS; the same as listener_port: for nothing else; "
        "left out: no TLS",
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file of our certificate and those above it, for DICOM TLS"
    )
    tls_key: Path | None = Field(None, description="PEM file of our certificate's key, without a passphrase")
    tls_ca: Path | None = Field(
        None, description="PEM file of the authorities whose certificates we trust in DICOM TLS"
    )
    listener_ae_title: AeTitle = Field("HILUM", description="our AE title")
    listener_processes: int = Field(1, ge=1, le=64, description="listener processes that share the port")
    any_called_ae_title: bool = Field(False, description="whether to accept calls to another AE title")
    max_pdu_bytes: int = Field(131_072, ge=4096, le=1 << 20, description="longest PDU received, bytes")
    max_object_mb: int = Field(512, ge=1, description="largest object received, MB")
    max_associations: int = Field(50, ge=1, description="associations at once, per listener process")
    idle_timeout_s: float = Field(60, gt=0, description="seconds after which a silent association is aborted")
    keep_free_mb: int = Field(1024, ge=0, description="free space kept in the store; below it 0xA700, MB")
    refuse_below_mb: int | None = Field(
        None,
        ge=0,
        description="free space in the store below which no association is accepted that would send images, "
        "MB; left out: twice keep_free_mb",
    )
    settle_s: float = Field(2.0, ge=0, description="seconds without a new image before a study is read")
    other_pixels: Literal["success", "refuse"] = Field(
        "success",
        description="answer to an object whose UID is known with other pixels: success, and it is kept aside "
        "and flagged, or refuse",
    )
    senders: tuple[Sender, ...] = Field((), description="who may push; empty: anybody who reaches the port")
    destinations: tuple[Destination, ...] = Field((), description="where results go")

    ledger_grace_s: float = Field(
        3600,
        ge=0,
        description="seconds after a study's time, and after its last image, until what lacks counts as "
        "a gap",
    )
    keep_prepared_days: float | None = Field(
        None,
        gt=0,
        description="days for which what was prepared of a finished study's images is kept; it is made again "
        "when it is needed; left out: as long as its files",
    )
    keep_files_days: float | None = Field(
        None,
        gt=0,
        description="days for which a finished study's files are kept, from its last object on; "
        "left out: for ever",
    )
    keep_rows_days: float | None = Field(
        None,
        gt=0,
        description="days for which a finished study is kept in the database, and its files with it; "
        "left out: for ever",
    )
    keep_labelled: bool = Field(
        True, description="whether studies with a verdict are kept for ever: they are training data"
    )
    lease_s: float = Field(30, ge=3, description="seconds after which a silent worker counts as dead")
    sweep_s: float = Field(5, ge=0.5, description="seconds between two looks for forgotten work")
    longest_pause_s: float = Field(
        600, ge=1, description="longest pause between two tries to deliver, seconds"
    )
    decode_timeout_s: float = Field(30, gt=0, description="seconds a decoder may take for an image")
    decode_memory_mb: int = Field(2048, ge=256, description="memory a decoder may take, MB")
    prepare_processes: int = Field(
        default_factory=lambda: max(1, (os.cpu_count() or 2) - 1),
        ge=1,
        description="prepare processes that `hilum up` starts; default: processors less one",
    )
    training_hour: int = Field(
        1,
        ge=0,
        le=23,
        description="hour, by the clock on the wall, at which the training of a night may begin",
    )
    training_least_verdicts: int = Field(
        100,
        ge=0,
        description="images with a verdict that came since the last training before another begins by "
        "itself; 0: none does",
    )
    training_budget_s: float = Field(
        14_400,
        gt=0,
        description="seconds that a training may learn; it ends with the epoch, and what is measured and "
        "judged then comes on top",
    )
    training_recipe: str = Field(
        "nightly",
        description="what is trained by: a recipe that comes with Hilum, or a TOML file's full path",
    )
    training_largest_author_share: float = Field(
        0.8,
        gt=0,
        le=1,
        description="largest part of the new verdicts that one person may have given; above it no training "
        "begins",
    )
    training_largest_flip_share: float = Field(
        0.3,
        gt=0,
        le=1,
        description="largest part of the new verdicts that may contradict a finding of 90 % or more; above "
        "it no training begins",
    )
    gate_margin: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="loss that would be borne in one slice of the test patients, or of one class, in parts "
        "of 1; a network that may lose more does not pass the gate",
    )
    gate_overall_margin: float = Field(
        0.02, gt=0, lt=1, description="likewise, in accuracy and macro AUROC of all test patients"
    )
    gate_least_cases: int = Field(
        100,
        ge=20,
        description="test patients from which on a slice or class has to show that it loses less than that; "
        "of fewer the gate only says that they are too few",
    )
    tracking_uri: str = Field(
        "",
        repr=False,
        description="where MLflow keeps copies of what trainings measured: a server's URL, or sqlite:///...; "
        "empty: SQLite in data_dir/mlflow, when hilum[tracking] is installed",
    )
    batch_images: int = Field(32, ge=1, le=512, description="images in a batch at most")
    promote: Literal["person", "shadow", "champion"] = Field(
        "person",
        description="what a network that has passed the gate becomes by itself: nothing until a person "
        "promotes it, a shadow that reads beside the champion, or the champion",
    )
    promote_two_people: bool = Field(
        False, description="whether two different people must promote a network before it reads"
    )
    drift_days: float = Field(
        7, gt=0, description="days whose images are compared with a sender's first ones, to find drift"
    )
    drift_reference_images: int = Field(
        500,
        ge=50,
        le=5000,
        description="how many of the first images of a sender and view are those that later ones are "
        "compared with; best as many as come in some weeks",
    )
    drift_least_images: int = Field(
        100, ge=30, description="images of the last drift_days below which nothing is compared"
    )
    drift_limit: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="distance from the first images, from 0 (alike) to 1 (nothing in common), from which on "
        "drift is an alert, unless chance would explain it",
    )
    drift_holds: bool = Field(
        False,
        description="whether drift holds a sender's results back until a person has accepted it: its "
        "studies are read and reported, and the reports stay here",
    )
    constancy_hour: int | None = Field(
        None,
        ge=0,
        le=23,
        description="hour, by the clock on the wall, at which phantoms go through the whole chain, to "
        "destinations, each day; left out: never",
    )
    constancy_ae_title: AeTitle = Field(
        "HILUM-CONSTANCY",
        description="AE title by which phantoms are sent to our own listener; where senders are named, "
        "it must be one of them",
    )
    constancy_host: str = Field(
        "",
        description="name or address by which workers call the listener; empty: listener_host, or this "
        "machine where that is all addresses",
    )
    console_host: str = Field("127.0.0.1", description="address the console binds; 0.0.0.0: all")
    console_port: Port = Field(8080, description="TCP port of the console")
    console_url: Annotated[str, AfterValidator(urls.console_url)] = Field(
        "",
        description="address by which browsers reach the console, https://hilum.hospital.example for "
        "example; needed behind a proxy; empty: the one that a browser names",
    )
    console_tls_certificate: Path | None = Field(
        None,
        description="PEM file of the console's certificate and those above it; left out: no HTTPS, which is "
        "for this machine alone, or behind a proxy that speaks it",
    )
    console_tls_key: Path | None = Field(
        None, description="PEM file of that certificate's key, without a passphrase"
    )
    console_session_hours: float = Field(
        12, gt=0, le=168, description="hours after which a person must log in to the console again"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="least level logged: DEBUG, INFO, WARNING or ERROR"
    )

    _database_password: str = PrivateAttr("")
    _broker_password: str = PrivateAttr("")

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force, with its password."""
        if not self.database_url:
            return f"sqlite:///{self.data_dir.resolve() / 'hilum.sqlite'}"
        if not self._database_password:
            return self.database_url
        return (
            make_url(self.database_url)
            .set(password=self._database_password)
            .render_as_string(hide_password=False)
        )

    @property
    def embedded_socket(self) -> Path:
        """Where the embedded Valkey listens."""
        return self.data_dir.resolve() / "valkey.sock"

    @property
    def broker(self) -> str:
        """The broker's URL in force, with its password."""
        if not self.broker_url:
            return f"redis+socket://{self.embedded_socket}"
        return urls.verifying(urls.with_password(self.broker_url, self._broker_password))

    @property
    def store(self) -> Path:
        """The file store's folder in force."""
        return (self.store_dir or self.data_dir / "store").resolve()

    @property
    def console_address(self) -> str:
        """The address by which browsers reach the console, without a slash at its end."""
        if self.console_url:
            return self.console_url
        scheme = "https" if self.console_tls_certificate else "http"
        host = "127.0.0.1" if self.console_host in ("0.0.0.0", "::") else self.console_host  # noqa: S104
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.console_port}"

    @property
    def least_free_mb(self) -> int:
        """Free space below which associations that would send images are refused, MB."""
        return 2 * self.keep_free_mb if self.refuse_below_mb is None else self.refuse_below_mb

    def sender(self, ae_title: str) -> Sender | None:
        """The sender of this calling AE title, or None."""
        return next((sender for sender in self.senders if sender.ae_title == ae_title.strip()), None)

    @property
    def sources(self) -> tuple[Sender, ...]:
        """The senders that the ledger asks what they have."""
        return tuple(sender for sender in self.senders if sender.retrieve)

    def destination(self, name: str) -> Destination | None:
        """The destination of this name, or None."""
        return next((place for place in self.destinations if place.name == name), None)

    def committing(self, ae_title: str) -> tuple[str, ...]:
        """Names of the destinations of this AE title whose storage commitment is awaited."""
        return tuple(
            place.name
            for place in self.destinations
            if place.final_when == "commitment" and place.ae_title == ae_title.strip()
        )

    def destinations_of(self, ae_title: str) -> tuple[Destination, ...]:
        """Where the results of this sender's studies go: all destinations unless its rule names some."""
        sender = self.sender(ae_title)
        if sender is None or sender.destinations is None:
            return self.destinations
        return tuple(place for place in self.destinations if place.name in sender.destinations)

    @model_validator(mode="after")
    def _names_agree(self) -> Self:
        names = [place.name for place in self.destinations]
        if len(names) != len(set(names)):
            raise ValueError("two destinations have the same name")
        for sender in self.senders:
            for name in sender.destinations or ():
                if name not in names:
                    raise ValueError(f"sender {sender.ae_title}: there is no destination {name!r}")
            if sender.retrieve and not sender.host:
                raise ValueError(f"sender {sender.ae_title}: retrieve needs its host")
        return self

    @model_validator(mode="after")
    def _passwords(self) -> Self:
        self._database_password = _secret("database_password_file", self.database_password_file)
        self._broker_password = _secret("broker_password_file", self.broker_password_file)
        return self

    @model_validator(mode="after")
    def _tls_files(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together: set both, or neither")
        if (self.console_tls_certificate is None) != (self.console_tls_key is None):
            raise ValueError("console_tls_certificate and console_tls_key go together: set both, or neither")
        if self.listener_tls_port is not None and not (self.tls_certificate and self.tls_ca):
            raise ValueError("listener_tls_port needs tls_certificate, tls_key and tls_ca")
        if any(place.tls for place in self.destinations) and not self.tls_ca:
            raise ValueError("a destination with tls needs tls_ca")
        for sender in self.senders:
            if (sender.tls or sender.certificate_sha256) and self.listener_tls_port is None:
                raise ValueError(
                    f"sender {sender.ae_title}: it must call by TLS, and listener_tls_port is not set"
                )
        return self

    @model_validator(mode="after")
    def _rows_outlast_files(self) -> Self:
        if self.keep_files_days and self.keep_rows_days and self.keep_rows_days < self.keep_files_days:
            raise ValueError("keep_rows_days is less than keep_files_days: files go with the rows at last")
        return self

    @model_validator(mode="after")
    def _phantoms_are_let_in(self) -> Self:
        is_known = not self.senders or self.sender(self.constancy_ae_title) is not None
        if self.constancy_hour is not None and not is_known:
            raise ValueError(
                f"constancy_hour: phantoms are sent as {self.constancy_ae_title}, which is no sender: add it "
                "to senders, with the destinations that may get phantoms"
            )
        return self

    @model_validator(mode="after")
    def _people_promote(self) -> Self:
        if self.promote == "champion" and self.promote_two_people:
            raise ValueError("promote_two_people: with promote = champion nobody is asked; set one of them")
        return self

    @model_validator(mode="after")
    def _socket_fits(self) -> Self:
        if not self.broker_url and len(str(self.embedded_socket)) > LONGEST_SOCKET_PATH:
            raise ValueError("data_dir: the path is too long for the broker's socket; choose a shorter one")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file."""
        file = config_file()
        return (init_settings, env_settings, *([_File(settings_cls, file)] if file else []))


def _secret(name: str, file: Path | None) -> str:
    """What a file holds, less the end of its line; nothing when there is no file to read."""
    if file is None:
        return ""
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: cannot be read: {error}") from None


class _File(TomlConfigSettingsSource):
    """The configuration file, whose paths are seen from where it lies, from wherever it is read."""

    def __init__(self, settings_cls: type[BaseSettings], file: Path) -> None:
        self._folder = file.absolute().parent
        super().__init__(settings_cls, file)

    def __call__(self) -> dict[str, Any]:
        values = {"data_dir": Settings.model_fields["data_dir"].default, **super().__call__()}
        paths = {name: values[name] for name in _PATHS if isinstance(values.get(name), str | Path)}
        return values | {name: self._folder / path for name, path in paths.items()}


def config_file() -> Path | None:
    """The configuration file in force, or None when there is none."""
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise SettingsError(f"{CONFIG_VARIABLE}: there is no file {named}")
        return Path(named)
    return Path("hilum.toml") if Path("hilum.toml").is_file() else None


@cache
def settings() -> Settings:
    """The settings in force; `settings.cache_clear()` has them read anew.

    Raises
    ------
    SettingsError
        In words for the operator: the setting, what it was, what it may be.
    """
    keep_from_others()  # a decoder that a file has taken over could read passwords in our /proc/.../environ
    for name in os.environ:
        if name.startswith("HILUM_") and name != CONFIG_VARIABLE and not _is_setting(name):
            known = [CONFIG_VARIABLE, *(f"HILUM_{field.upper()}" for field in Settings.model_fields)]
            raise SettingsError(f"{name}: {_no_such_setting(name, known)}; {_EXPLAINED}")
    try:
        return Settings()
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{config_file()}: not TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{config_file()}: not readable: {error}") from None
    except NotReadable:  # only of the environment's lists; its text names a class of pydantic's
        raise SettingsError(_lists_in_words()) from None
    except ValidationError as error:  # its text, in a traceback, would show secrets
        raise SettingsError("\n".join([*map(_in_words, error.errors()), _EXPLAINED])) from None


def _is_setting(variable: str) -> bool:
    return variable.removeprefix("HILUM_").lower() in Settings.model_fields


def _no_such_setting(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return "there is no such setting" + (f"; did you mean {close[0]}?" if close else "")


def _lists_in_words() -> str:
    lists = " and ".join(name for name in ("HILUM_SENDERS", "HILUM_DESTINATIONS") if name in os.environ)
    return f'{lists}: should be a list in JSON, like [{{"ae_title": "PACS"}}]; {_EXPLAINED}'


def _in_words(fault: ErrorDetails) -> str:
    """One fault: the setting, what it may be, and where it was set."""
    if not fault["loc"]:
        return _said(fault)
    where = str(fault["loc"][0])
    variable = f"HILUM_{where.upper()}"
    source = variable if variable in os.environ else str(config_file() or "the defaults")
    return f"{_place(fault['loc'])}: {_said(fault)} (in {source})"


def _place(loc: tuple[int | str, ...]) -> str:
    """The setting of a fault; one of a sender or destination begins with that one's name."""
    if loc[0] not in _BLOCKS or len(loc) < 2 or not isinstance(loc[1], int):
        return ".".join(map(str, loc))
    kind, named_by, _ = _BLOCKS[str(loc[0])]
    block = _given(str(loc[0]))[loc[1]]
    name = block.get(named_by) if isinstance(block, dict) else None
    return " ".join([kind, str(name or f"number {loc[1] + 1}") + ":" * (len(loc) > 2), *map(str, loc[2:3])])


def _given(kind: str) -> list[Any]:
    """What was written as senders or destinations."""
    text, file = os.environ.get(f"HILUM_{kind.upper()}"), config_file()
    if text is not None:
        return list(json.loads(text))
    return list(tomllib.loads(file.read_text(encoding="utf-8"))[kind]) if file else []


def _said(fault: ErrorDetails) -> str:
    if fault["type"] == "extra_forbidden":
        block = _BLOCKS.get(str(fault["loc"][0])) if len(fault["loc"]) > 1 else None
        return _no_such_setting(str(fault["loc"][-1]), (block[2] if block else Settings).model_fields)
    if fault["type"] == "missing":
        return "must be there"
    return fault["msg"].removeprefix("Value error, ").removeprefix("Input ")


_BLOCKS: dict[str, tuple[str, str, type[BaseModel]]] = {
    "senders": ("sender", "ae_title", Sender),
    "destinations": ("destination", "name", Destination),
}
"""List in the settings -> what one of it is called, the setting that names it, and all it may have."""

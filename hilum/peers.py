"""Peers of ours, as the settings describe them: who sends to us, and whom we send to."""

import re
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _network(text: str) -> str:
    ip_network(text)
    return text


def _ae_title(text: str) -> str:
    if not text.strip() or len(text) > 16 or not text.isascii() or not text.isprintable() or "\\" in text:
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return text.strip()


def _fingerprint(text: str) -> str:
    digits = text.replace(":", "").lower()
    if not re.fullmatch("[0-9a-f]{64}", digits):
        raise ValueError("a SHA-256 fingerprint has 64 hexadecimal digits, with or without colons")
    return digits


def _sop_class(text: str) -> str:
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)+", text):
        raise ValueError("a SOP class is named by its UID, like 1.2.840.10008.5.1.4.1.1.1.1")
    return text


AeTitle = Annotated[str, AfterValidator(_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Sender(BaseModel):
    """A PACS or modality that may push to us, and where the results of its studies go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ae_title: AeTitle = Field(description="calling AE title")
    addresses: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        (), description="addresses or networks it may call from; empty: any"
    )
    called_ae_title: AeTitle | None = Field(
        None, description="AE title it must call; left out: as for all, by listener_ae_title"
    )
    tls: bool = Field(
        False, description="whether it must call by DICOM TLS, on listener_tls_port, and is called so"
    )
    certificate_sha256: tuple[Annotated[str, AfterValidator(_fingerprint)], ...] = Field(
        (),
        description="SHA-256 fingerprints of its certificates: it must call by TLS with one of them; "
        "empty: with any that tls_ca knows",
    )
    sop_classes: tuple[Annotated[str, AfterValidator(_sop_class)], ...] = Field(
        (), description="UIDs of the storage SOP classes it may send; empty: all"
    )
    objects_per_minute: int | None = Field(
        None,
        ge=6,
        description="objects it may send a minute, per listener process; above it the answers come slower; "
        "left out: any number",
    )
    destinations: tuple[str, ...] | None = Field(
        None, description="names of the destinations of its results; left out: all of them"
    )
    urgent: bool = Field(False, description="whether its studies go before those of others")
    verdicts: bool = Field(
        True,
        description="whether what people say in its key object notes and structured reports is a verdict on "
        "the image, to be learnt from",
    )
    host: str = Field("", description="name or address at which it takes calls of ours; empty: it takes none")
    port: Port = Field(104, description="TCP port at which it takes them")
    query_ae_title: AeTitle | None = Field(
        None, description="AE title that we call it by; left out: its calling AE title"
    )
    retrieve: Literal["c-move", "c-get"] | None = Field(
        None,
        description="how the ledger asks for images that never came, which needs host; "
        "left out: the ledger does not ask it",
    )

    @property
    def answers_to(self) -> str:
        """The AE title that we call it by."""
        return self.query_ae_title or self.ae_title


class Destination(BaseModel):
    """A PACS we send results to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        min_length=1, max_length=64, description="the word it is called by in senders, tables and logs"
    )
    ae_title: AeTitle = Field(description="called AE title")
    host: str = Field(description="name or address")
    port: Port = Field(description="TCP port")
    tls: bool = Field(
        False, description="whether to call it by DICOM TLS; its certificate must name the host"
    )
    final_when: Literal["success", "c-find", "commitment"] = Field(
        "success",
        description="what makes a delivery final: the C-STORE's Success, the object found again by C-FIND, "
        "or storage commitment",
    )
    commitment_timeout_s: float = Field(
        600,
        ge=1,
        description="seconds without a report on storage commitment after which it is asked for again",
    )

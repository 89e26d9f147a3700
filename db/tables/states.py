"""What studies, work, deliveries, networks, trainings and accounts can be."""

from enum import StrEnum


class StudyState(StrEnum):
    """How far a study has come."""

    RECEIVED = "received"
    PREPARED = "prepared"
    READ = "read"
    REPORTED = "reported"
    DELIVERED = "delivered"
    NOT_READ = "not read"
    """It holds no CR or DX image: recorded, and no report is made."""


class Role(StrEnum):
    """What an instance is to us."""

    IMAGE = "image"
    OURS = "ours"
    """A report or heat map of ours that a PACS sent back to us."""
    OTHER = "other"
    """An object without pixels: a key object note or report, in which a person may speak, or another one."""


class JobState(StrEnum):
    """What becomes of a piece of work."""

    WAITING = "waiting"
    """Due now or later; at work while it has a lease."""
    DONE = "done"
    FAILED = "failed"
    """It raised too often; a person may replay or cancel it."""
    QUARANTINED = "quarantined"
    """Its worker died too often; a person may replay or cancel it."""
    CANCELLED = "cancelled"


class DeliveryState(StrEnum):
    """What is known of a report at a destination."""

    WAITING = "waiting"
    SENT = "sent"
    """Every object was answered with Success; the destination's rule asks for more before it is final."""
    FINAL = "final"
    REFUSED = "refused"
    """The destination refused it for good; a person must look."""


class NetworkState(StrEnum):
    """What a network may do here."""

    CANDIDATE = "candidate"
    """It passed the gate, or a person brought it; it reads nothing yet."""
    SHADOW = "shadow"
    """It reads what the champion reads; what it finds is kept, and never sent. There is one at most."""
    CHAMPION = "champion"
    """It reads, and its findings are reported. There is one at most."""
    RETIRED = "retired"
    """It was champion and can be again."""
    REFUSED = "refused"
    """It did not pass the gate."""
    RECALLED = "recalled"
    """It must not read again."""


class RunState(StrEnum):
    """How far a training has come."""

    WAITING = "waiting"
    RUNNING = "running"
    PASSED = "passed"
    """Its network passed the gate and is a candidate."""
    REFUSED = "refused"
    """Its network did not pass the gate."""
    TRAINED = "trained"
    """It ended with a network that no gate was asked about."""
    FAILED = "failed"


class Part(StrEnum):
    """What the images of a patient are used for, now and ever after."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class ObjectKind(StrEnum):
    """What an object of a report is."""

    SR = "sr"
    SC = "sc"


class AccountRole(StrEnum):
    """What an account may do at the console."""

    READER = "reader"
    """Sees studies and says verdicts."""
    ADMINISTRATOR = "administrator"
    """Everything: also networks, trainings, destinations, what failed, and accounts."""

"""Response statuses: of C-STORE, PS3.4 B.2.3, and of storage commitment; and the refusal that carries one."""

from pydicom import Dataset

from hilum.errors import HilumError

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700  # ours to fix: the sender should try again
NOT_ITS_CLASS = 0xA900  # theirs to fix: the data set is of another SOP Class than the request says
CANNOT_UNDERSTAND = 0xC000  # theirs to fix: sending it again cannot help
OTHER_PIXELS = 0xC001  # theirs to look at: the UID is taken by another object

# N-ACTION and N-EVENT-REPORT, PS3.7 annex C
NO_SUCH_EVENT = 0x0113
INVALID_ARGUMENT = 0x0115
NO_SUCH_ACTION = 0x0123
NOT_AUTHORIZED = 0x0124
RESOURCE_LIMITATION = 0x0213  # ours to mend: the caller should try again


class Refused(HilumError):
    """The sender is told by the status, and the operator by the text, why an object is not kept."""

    def __init__(self, status: int, because: str) -> None:
        super().__init__(because)
        self.status = status


def refusal(status: int, because: str) -> Dataset:
    """Return a failure's status and Error Comment (0000,0902), which many senders log; 64 characters fit."""
    answer = Dataset()
    answer.Status = status
    answer.ErrorComment = because.encode("ascii", "replace").decode()[:64]  # LO, PS3.5 6.2
    return answer

"""C-STORE response statuses, PS3.4 B.2.3, and the refusal that carries one."""

from hilum.errors import HilumError

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700  # ours to fix: the sender should try again
NOT_ITS_CLASS = 0xA900  # theirs to fix: the data set is of another SOP Class than the request says
CANNOT_UNDERSTAND = 0xC000  # theirs to fix: sending it again cannot help
OTHER_PIXELS = 0xC001  # theirs to look at: the UID is taken by an object with other pixels


class Refused(HilumError):
    """The sender is told by the status, and the operator by the text, why an object is not kept."""

    def __init__(self, status: int, because: str) -> None:
        super().__init__(because)
        self.status = status

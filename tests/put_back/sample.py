"""The rows of the matrix that CI plays: each operation and each kind of put-back, in quick stories."""

from collections.abc import Mapping

from tests.put_back.histories import DONE, Later, PutBack, Story

_TO_REQUEST = (PutBack.REGISTRY_TO_REQUEST, PutBack.SERVER_TO_REQUEST)
_TO_BOUNDARY = (PutBack.REGISTRY_TO_BOUNDARY, PutBack.SERVER_TO_BOUNDARY)
_KILLED = (PutBack.NOTHING, PutBack.BOTH_TO_REQUEST)
_ROWS = (
    ("create", DONE, Later.NEXT, _TO_BOUNDARY),
    ("rename", "after 2", Later.NEXT, (PutBack.REGISTRY_TO_BOUNDARY, PutBack.BOTH_TO_BOUNDARY)),
    ("delete", "after 2", Later.NAME, (PutBack.REGISTRY_TO_REQUEST, PutBack.SERVER_TO_BOUNDARY)),
    ("undelete", DONE, Later.NEXT, _TO_BOUNDARY),
    ("undelete renamed", DONE, Later.NEXT, _TO_REQUEST),
    ("purge", "after 2", Later.NOTHING, _KILLED),
    ("purge backed up", DONE, Later.NEXT, (PutBack.SERVER_TO_REQUEST,)),
    ("drop", "after 2", Later.NOTHING, _KILLED),
    ("drop backed up", "after 2", Later.NOTHING, (PutBack.BOTH_TO_REQUEST,)),
    ("reset", DONE, Later.NEXT, _TO_BOUNDARY),
    ("undo reset", DONE, Later.NEXT, _TO_REQUEST),
    ("reset to backup", DONE, Later.NEXT, (PutBack.REGISTRY_TO_BOUNDARY,)),
    ("copy closed", "after 2", Later.NOTHING, _TO_REQUEST),
    ("copy online", "after 2", Later.NOTHING, (PutBack.NOTHING,)),
    ("restore", DONE, Later.NEXT, (PutBack.SERVER_TO_BOUNDARY,)),
    ("detach", "after 2", Later.NOTHING, _TO_REQUEST),
    ("adopt", DONE, Later.NEXT, _TO_REQUEST),
    ("backup", DONE, Later.NEXT, (PutBack.REGISTRY_TO_REQUEST,)),
    ("snapshot", "after 2", Later.NOTHING, (PutBack.SERVER_TO_REQUEST,)),
    ("refresh snapshot", DONE, Later.NEXT, (PutBack.REGISTRY_TO_BOUNDARY,)),
    ("delete snapshot", DONE, Later.NEXT, (PutBack.SERVER_TO_REQUEST,)),
)

SAMPLE: Mapping[Story, tuple[PutBack, ...]] = {
    Story(operation, boundary, later): put_backs for operation, boundary, later, put_backs in _ROWS
}

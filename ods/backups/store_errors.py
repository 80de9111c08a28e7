"""Errors of the store, translated: what is wrong, and whether it passes by itself.

obstore raises a class of its own for the plain cases only. Otherwise its text has the errno of the operating
system or the status of the store's answer; nothing else of the text is used, and none of it is passed on.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from ods.backups.errors import BackupFaultError, MissingObjectError, StoreFullError, StoreRefusedError

_ERRNO = re.compile(r"\(os error (\d+)\)")
_STATUS = re.compile(r"status code: (\d{3})\b")
_METADATA_SERVICE = re.compile(r"//(169\.254\.169\.254|metadata\.google\.internal)\b")
"""Where clouds give credentials to their own machines; asked only if the environment has none."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_MISPLACED = {errno.ENOTDIR, errno.EISDIR}
_INSUFFICIENT_STORAGE = 507
_REFUSED_STATUSES = {401, 403}
_TOKENS_THAT_HAVE_ENDED = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired")
"""S3 answers these with 400: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html"""
_OUTAGE_STATUSES = {408, 429}
_SERVER_ERRORS = 500


@contextmanager
def translate_store_errors(location: str) -> Iterator[None]:
    """Turn errors of the store into `BackupFaultError`.

    Raises:
        MissingObjectError: the object is not there, but the store is.
        StoreRefusedError: the store refuses the credentials.
        BackupFaultError: the store is away or cannot be used.
    """
    try:
        yield
    except OSError as error:
        # Errors of obstore have no errno.
        if error.errno is None:
            raise _missing(str(error), location) from None
        raise _local_fault(error.errno, location) from None
    except BaseError as error:
        raise _fault(error, location) from None


def _missing(text: str, location: str) -> BackupFaultError:
    if _container_is_missing(text):
        return _missing_container(location)
    return MissingObjectError(f"{location} does not exist.")


def _container_is_missing(text: str) -> bool:
    return any(code in text for code in ("NoSuchBucket", "ContainerNotFound", "bucket does not exist"))


def _missing_container(location: str) -> BackupFaultError:
    return BackupFaultError(
        f"The bucket or container of {location} does not exist. Create it, or correct the address."
    )


def _fault(error: BaseError, location: str) -> BackupFaultError:
    text = str(error)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return _refusal(location)
    if _METADATA_SERVICE.search(text) or "MissingAccessKeyId" in text or "MissingSecretAccessKey" in text:
        return StoreRefusedError(
            f"There are no credentials for {location}. Set them in the environment of this process."
        )
    if number := _ERRNO.search(text):
        return _local_fault(int(number[1]), location)
    if status := _STATUS.search(text):
        return _answer(int(status[1]), text, location)
    return BackupFaultError(
        f"The store of {location} cannot be reached, or is too slow.",
        outage=True,
    )


def _local_fault(number: int, location: str) -> BackupFaultError:
    if number in _FULL:
        return _full(location)
    if number in _REFUSED:
        return _refusal(location)
    if number in _MISPLACED:
        return BackupFaultError(
            f"{location} cannot be used: a file is in the place of a folder, or a folder in that of a file."
            " Move it away."
        )
    if number == errno.ENOENT:
        return BackupFaultError(f"{location} does not exist. Create it, mount it, or correct the address.")
    return BackupFaultError(f"The store of {location} cannot be reached.", outage=True)


def _answer(status: int, text: str, location: str) -> BackupFaultError:
    if status in _REFUSED_STATUSES or any(code in text for code in _TOKENS_THAT_HAVE_ENDED):
        return _refusal(location)
    if status == _INSUFFICIENT_STORAGE:
        return _full(location)
    if _container_is_missing(text):
        return _missing_container(location)
    outage = status >= _SERVER_ERRORS or status in _OUTAGE_STATUSES
    return BackupFaultError(f"The store of {location} answered with the status {status}.", outage=outage)


def _refusal(location: str) -> BackupFaultError:
    return StoreRefusedError(
        f"The store refused access to {location}. Correct the credentials, or give them the right to list,"
        " read, write and delete there."
    )


def _full(location: str) -> BackupFaultError:
    return StoreFullError(f"The store of {location} is full. Free some space, or delete backups.")

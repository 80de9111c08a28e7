"""Encryption of what is stored, in the format of age, so that the tool `age` decrypts it by hand."""

from collections.abc import Sequence
from functools import partial
from typing import BinaryIO

import pyrage
from pyrage import x25519

from ods.backups.channels import Transform
from ods.backups.errors import BackupFaultError


def encrypting(recipients: Sequence[str]) -> Transform:
    """Encrypts to each of the recipients; any one of their identities decrypts.

    They are public keys, `age1…`.

    Raises:
        BackupFaultError: one of them is no public key.
    """
    try:
        keys = [x25519.Recipient.from_str(recipient.strip()) for recipient in recipients]
    except pyrage.RecipientError:
        raise BackupFaultError(
            "A recipient of backups is no public key of age, which begins with age1."
        ) from None
    return lambda source, target: pyrage.encrypt_io(source, target, keys)


def decrypting(identities: Sequence[str]) -> Transform:
    """Decrypts what was encrypted to one of the identities.

    They are private keys, `AGE-SECRET-KEY-1…`.

    Raises:
        BackupFaultError: there is none, or one of them is no private key.
    """
    if not identities:
        raise BackupFaultError("The backup is encrypted. Give an identity of age that it was encrypted to.")
    try:
        keys = [x25519.Identity.from_str(identity.strip()) for identity in identities]
    except pyrage.IdentityError:
        raise BackupFaultError(
            "An identity is no private key of age, which begins with AGE-SECRET-KEY-1."
        ) from None
    return partial(_decrypt, keys)


def _decrypt(keys: Sequence[x25519.Identity], source: BinaryIO, target: BinaryIO) -> None:
    try:
        pyrage.decrypt_io(source, target, keys)
    except (pyrage.DecryptError, OSError) as error:
        if BrokenPipeError.__name__ in str(error) or isinstance(error, BrokenPipeError):
            return  # what it was decrypted for has ended, and says why
        raise BackupFaultError(
            "The backup cannot be decrypted: it was encrypted to other recipients, or is damaged."
        ) from None

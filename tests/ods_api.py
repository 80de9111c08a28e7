"""What the ODS/API does with the rows that it finds, written from its documentation alone."""

import base64
import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def decrypt(stored: str, key: bytes) -> str:
    """The connection string that a row holds: `base64(IV)|base64(ciphertext)|base64(HMAC)`."""
    iv, ciphertext, signature = (base64.b64decode(part, validate=True) for part in stored.split("|"))
    if not hmac.compare_digest(signature, hmac.digest(key, ciphertext, hashlib.sha256)):
        raise ValueError("the signature is not the ciphertext's")
    assert len(iv) == 16
    decryptor = Cipher(algorithms.AES256(key), modes.CBC(iv)).decryptor()
    padded = decryptor.update(ciphertext) + decryptor.finalize()
    length = padded[-1]
    assert 1 <= length <= 16
    assert padded[-length:] == bytes([length]) * length
    return padded[:-length].decode()

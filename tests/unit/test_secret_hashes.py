import base64
import hashlib
import struct
import time
from itertools import count

import pytest
from argon2 import PasswordHasher

from ods.registry.clients.secret_hashes import SecretHasher

HASHER = SecretHasher()
SECRET = "my password"
SALT = b"sixteen bytes it"


def pbkdf2(
    *,
    secret: str = SECRET,
    version: int = 1,
    function: int = 1,
    iterations: int = 10_000,
    salt: bytes = SALT,
    salt_length: int | None = None,
    key_length: int = 32,
) -> str:
    """A hash as an Admin API writes it, or one that is wrong in one respect."""
    name = {0: "sha1", 1: "sha256", 2: "sha512"}.get(function, "sha256")
    key = hashlib.pbkdf2_hmac(name, secret.encode(), salt, min(iterations, 10_000) or 1, key_length or 1)
    length = len(salt) if salt_length is None else salt_length
    header = struct.pack(">BIII", version, function, iterations, length)
    return base64.b64encode(header + salt + key[:key_length]).decode()


@pytest.mark.parametrize(
    "stored",
    [
        # As published with ASP.NET Identity: SHA-1 and 250 rounds, SHA-256 and 250,000.
        "AQAAAAAAAAD6AAAAEAhftMyfTJylOlZT+eEotFXd1elee8ih5WsjXaR3PA9M",
        "AQAAAAEAA9CQAAAAIESkQuj2Du8Y+kbc5lcN/W/3NiAZFEm11P27nrSN5/tId+bR1SwV8CO1Jd72r4C08OLvplNlCDc3oQZ8efcW+jQ=",
        pbkdf2(),
        pbkdf2(function=0, key_length=20),
        pbkdf2(function=2, salt=bytes(64)),
        pbkdf2(iterations=1),
    ],
    ids=map(str, count()),
)
def test_secret_is_right_and_hashed_anew_when_an_admin_api_had_hashed_it(stored: str) -> None:
    verdict = HASHER.judge(stored, SECRET)
    assert verdict.matches
    assert verdict.replacement is not None
    assert verdict.replacement.startswith("$argon2id$")
    again = HASHER.judge(verdict.replacement, SECRET)
    assert (again.matches, again.replacement) == (True, None)
    assert not HASHER.judge(verdict.replacement, f"{SECRET} ").matches


def test_hashes_are_the_admin_api_s_when_it_verifies_the_same_secrets() -> None:
    shared = SecretHasher(shared=True)
    made = shared.hash(SECRET)
    content = base64.b64decode(made)
    assert struct.unpack_from(">BIII", content) == (1, 1, 10_000, 16)
    assert pbkdf2(salt=content[13:29]) == made != shared.hash(SECRET)
    for stored in (made, HASHER.hash(SECRET)):
        verdict = shared.judge(stored, SECRET)
        assert (verdict.matches, verdict.replacement) == (True, None)
        assert not shared.judge(stored, f"{SECRET} ").matches


def test_secret_is_right_when_it_is_not_ascii() -> None:
    assert HASHER.judge(pbkdf2(secret="Geheim\N{SNOWMAN}"), "Geheim\N{SNOWMAN}").matches


def test_secret_is_wrong_when_an_admin_api_had_hashed_another() -> None:
    verdict = HASHER.judge(pbkdf2(), f"{SECRET}!")
    assert (verdict.matches, verdict.replacement) == (False, None)


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "",
        " ",
        "AQAAAAEAACcQ",
        "AQ==",
        "no base64 at all!",
        "\N{SNOWMAN}",
        pbkdf2() + "AAAA",
        f"{pbkdf2()}\n",
        pbkdf2(version=0),
        pbkdf2(version=2),
        pbkdf2(function=3),
        pbkdf2(function=2**32 - 1),
        pbkdf2(iterations=0),
        pbkdf2(salt=b"short"),
        pbkdf2(salt=b""),
        pbkdf2(salt_length=2**32 - 1),
        pbkdf2(salt_length=15),
        pbkdf2(key_length=0),
        pbkdf2(key_length=15),
        "$argon2id$",
        "$argon2id$v=19$m=19456,t=2,p=1$",
        "$argon2id$v=19$m=x,t=2,p=1$AAAA$AAAA",
        "$argon2id$v=19$m=19456,t=2,p=1$\N{SNOWMAN}$\N{SNOWMAN}",
        "$argon2id$v=19$m=\N{ARABIC-INDIC DIGIT TWO},t=2,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA",
        "$argon2id$v=19$m=-1,t=-1,p=-1$AAAA$AAAA",
        "$argon2d$v=99$m=8,t=1,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA",
        PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash(SECRET)[:-2],
    ],
    ids=map(str, count()),
)
def test_no_secret_is_right_when_the_stored_value_is_not_a_hash(stored: str | None) -> None:
    for secret in (SECRET, "", stored or ""):
        verdict = HASHER.judge(stored, secret)
        assert (verdict.matches, verdict.replacement) == (False, None)


@pytest.mark.parametrize(
    "stored",
    [
        pbkdf2(iterations=600_001),
        pbkdf2(iterations=2**32 - 1),
        pbkdf2(salt=bytes(65)),
        pbkdf2(key_length=33),
        base64.b64encode(bytes(10_000_000)).decode(),
        PasswordHasher(time_cost=3, memory_cost=1024, parallelism=1).hash(SECRET),
        PasswordHasher(time_cost=1, memory_cost=20 * 1024, parallelism=1).hash(SECRET),
        PasswordHasher(time_cost=1, memory_cost=1024, parallelism=2).hash(SECRET),
        "$argon2id$v=19$m=4294967295,t=4294967295,p=1$c2FsdHNhbHQ$c2FsdHNhbHRzYWx0c2FsdA",
    ],
    ids=map(str, count()),
)
def test_planted_hash_is_refused_unworked_when_it_would_take_too_long(stored: str) -> None:
    started = time.process_time()
    assert not HASHER.judge(stored, SECRET).matches
    assert time.process_time() - started < 1

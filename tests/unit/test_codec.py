"""Payloads and failures are ciphertext under a key, and themselves again under the same key."""

import base64
import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.api.failure.v1 import Failure
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError

from ods.settings.settings import Settings
from ods.temporal.client import DATA_CONVERTER, data_converter
from ods.temporal.codec import EncryptionCodec, UnreadablePayloadError

KEY = bytes(range(32))
OTHER_KEY = bytes(32)

payloads = st.builds(
    Payload, metadata=st.dictionaries(st.text(max_size=8), st.binary(max_size=16)), data=st.binary()
)


@pytest.fixture
def converter() -> DataConverter:
    key = base64.b64encode(KEY).decode()
    dsn = "postgresql://u:p@h/d"
    settings = Settings(
        admin_dsn=dsn,
        master_dsn=dsn,
        instance_connection_string="host=h",
        encryption_key=key,
        token_signing_key=key,
        payload_key=key,
    )
    assert data_converter(settings.model_copy(update={"payload_key": None})) is DATA_CONVERTER
    return data_converter(settings)


@given(st.lists(payloads, max_size=3))
async def test_payloads_are_themselves_again_when_they_were_encrypted(given: list[Payload]) -> None:
    codec = EncryptionCodec([KEY])
    assert await codec.decode(await codec.encode(given)) == given


async def test_ciphertexts_differ_and_show_nothing_when_payloads_are_alike() -> None:
    codec = EncryptionCodec([KEY])
    plain = Payload(metadata={"encoding": b"json/plain"}, data=b"a readable job")
    first, second = await codec.encode([plain, plain])

    assert first.data != second.data
    for encrypted in (first, second):
        assert dict(encrypted.metadata) == {
            "encoding": b"binary/encrypted",
            "encryption-key-id": hashlib.sha256(KEY).hexdigest()[:16].encode(),
        }
        assert b"readable" not in encrypted.SerializeToString()
        assert b"json/plain" not in encrypted.SerializeToString()


async def test_payload_passes_when_it_was_never_encrypted() -> None:
    plain = Payload(metadata={"encoding": b"json/plain"}, data=b"1")
    assert await EncryptionCodec([KEY]).decode([plain]) == [plain]


@pytest.mark.parametrize("place", [0, 12, -1])
async def test_payload_is_refused_when_a_bit_was_changed(place: int) -> None:
    codec = EncryptionCodec([KEY])
    (encrypted,) = await codec.encode([Payload(data=b"a readable job")])
    changed = bytearray(encrypted.data)
    changed[place] ^= 1
    with pytest.raises(UnreadablePayloadError):
        await codec.decode([Payload(metadata=encrypted.metadata, data=bytes(changed))])


@pytest.mark.parametrize("data", [b"", b"short", bytes(28)])
async def test_payload_is_refused_when_it_is_no_ciphertext(data: bytes) -> None:
    metadata = dict((await EncryptionCodec([KEY]).encode([Payload()]))[0].metadata)
    with pytest.raises(UnreadablePayloadError):
        await EncryptionCodec([KEY]).decode([Payload(metadata=metadata, data=data)])


async def test_key_is_asked_for_and_nothing_is_told_when_it_is_another() -> None:
    encrypted = await EncryptionCodec([KEY]).encode([Payload(data=b"a readable job")])
    with pytest.raises(UnreadablePayloadError, match="ODS_PAYLOAD_KEY") as refused:
        await EncryptionCodec([OTHER_KEY]).decode(encrypted)
    assert "readable" not in str(refused.value)
    assert refused.value.__context__ is None


@pytest.mark.parametrize("keys", [[OTHER_KEY, KEY], [OTHER_KEY, bytes(reversed(KEY)), KEY], [KEY, OTHER_KEY]])
async def test_payload_is_read_and_the_first_key_encrypts_when_there_are_several(keys: list[bytes]) -> None:
    codec, plain = EncryptionCodec(keys), Payload(data=b"a readable job")
    assert await codec.decode(await EncryptionCodec([KEY]).encode([plain])) == [plain]
    (encrypted,) = await codec.encode([plain])
    assert await EncryptionCodec(keys[:1]).decode([encrypted]) == [plain]


@pytest.mark.parametrize("name", [None, b"", b"0123456789abcdef"])
async def test_payload_is_refused_when_it_names_no_known_key(name: bytes | None) -> None:
    codec = EncryptionCodec([KEY])
    (encrypted,) = await codec.encode([Payload(data=b"a readable job")])
    del encrypted.metadata["encryption-key-id"]
    if name is not None:
        encrypted.metadata["encryption-key-id"] = name
    with pytest.raises(UnreadablePayloadError):
        await codec.decode([encrypted])


async def test_payload_and_failure_are_refused_by_who_needs_them_when_their_key_is_gone(
    converter: DataConverter,
) -> None:
    of_other_key = replace(converter, payload_codec=EncryptionCodec([OTHER_KEY]))
    (value,) = await of_other_key.encode(["a readable job"])
    failure = Failure()
    await of_other_key.encode_failure(failed("inner words", "outer words"), failure)

    assert converter.payload_codec is not None
    assert await converter.payload_codec.decode([value]) == [value]
    with pytest.raises(UnreadablePayloadError, match="ODS_PAYLOAD_KEY"):
        await converter.decode([value])
    with pytest.raises(UnreadablePayloadError):
        await converter.decode_failure(failure)


def failed(inner: str, outer: str) -> ApplicationError:
    error = ApplicationError(outer, "a detail", type="Outer")
    error.__cause__ = ApplicationError(inner, type="Inner")
    return error


async def test_words_of_a_failure_and_its_causes_are_ciphertext_when_there_is_a_key(
    converter: DataConverter,
) -> None:
    failure = Failure()
    await converter.encode_failure(failed("inner words", "outer words"), failure)
    written = failure.SerializeToString()

    assert failure.HasField("cause")
    for words in (b"inner words", b"outer words", b"a detail", b"test_codec.py"):
        assert words not in written
    read = await converter.decode_failure(failure)
    assert (str(read), str(read.__cause__)) == ("Outer: outer words", "Inner: inner words")


async def test_words_of_a_failure_stay_ciphertext_when_it_was_read_and_is_written_again(
    converter: DataConverter,
) -> None:
    once, twice = Failure(), Failure()
    await converter.encode_failure(failed("inner words", "outer words"), once)
    await converter.encode_failure(await converter.decode_failure(once), twice)
    written = twice.SerializeToString()

    for words in (b"inner words", b"outer words", b"a detail"):
        assert words not in written
    read = await converter.decode_failure(twice)
    assert (str(read), str(read.__cause__)) == ("Outer: outer words", "Inner: inner words")


async def test_exceptions_words_are_not_even_encrypted_when_they_were_not_foreseen(
    converter: DataConverter,
) -> None:
    failure = Failure()
    await converter.encode_failure(ValueError("password=a-secret"), failure)
    read = await converter.decode_failure(failure)

    assert "a-secret" not in str(read)
    assert "ValueError" in str(read)
    plain = await replace(converter, payload_codec=EncryptionCodec([KEY])).decode(
        [failure.encoded_attributes]
    )
    assert "a-secret" not in str(plain)
    assert not plain[0]["stack_trace"]

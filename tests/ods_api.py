"""What the ODS/API has in its tables, and what it does with rows, written from its documentation alone."""

import base64
import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

APPLICATION_TABLES = """
CREATE TABLE dbo.applications (
    applicationid serial PRIMARY KEY,
    applicationname varchar,
    vendor_vendorid int,
    claimsetname varchar(255),
    operationalcontexturi varchar(255) NOT NULL DEFAULT ''
);
CREATE TABLE dbo.apiclients (
    apiclientid serial PRIMARY KEY,
    key varchar(50) NOT NULL DEFAULT 'key',
    isapproved boolean NOT NULL,
    application_applicationid int REFERENCES dbo.applications
);
INSERT INTO dbo.applications (applicationid, applicationname, vendor_vendorid, claimsetname)
    VALUES (1, 'A SIS', 7, 'SIS Vendor'), (2, NULL, NULL, NULL), (3, 'Elsewhere', 7, 'SIS Vendor');
INSERT INTO dbo.apiclients (apiclientid, isapproved, application_applicationid)
    VALUES (11, true, 1), (12, true, 1), (21, true, 2), (22, false, 2), (31, true, 3), (41, true, NULL);
INSERT INTO dbo.odsinstances VALUES (1, 'one'), (2, 'two'), (3, 'no application''s');
INSERT INTO dbo.apiclientodsinstances (apiclient_apiclientid, odsinstance_odsinstanceid)
    VALUES (11, 1), (12, 1), (12, 2), (21, 1), (31, 2), (41, 1);
"""
"""Tables of the ODS/API with applications, and rows that use two ODS instances."""
APPLICATION_DETAILS = """
CREATE TABLE dbo.applicationeducationorganizations (
    applicationeducationorganizationid serial PRIMARY KEY,
    educationorganizationid bigint NOT NULL,
    application_applicationid int REFERENCES dbo.applications
);
CREATE TABLE dbo.profileapplications (
    profile_profileid int NOT NULL,
    application_applicationid int NOT NULL REFERENCES dbo.applications,
    PRIMARY KEY (profile_profileid, application_applicationid)
);
INSERT INTO dbo.applicationeducationorganizations (educationorganizationid, application_applicationid)
    VALUES (255901, 1), (6000203000000, 1), (255901, 3);
INSERT INTO dbo.profileapplications VALUES (5, 1), (4, 1), (4, 3);
"""
"""Tables with what the applications may use."""


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

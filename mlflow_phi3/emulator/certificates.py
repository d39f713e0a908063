"""A certificate authority of one's own, and the certificate of loopback under it."""

import datetime as dt
import ipaddress
from pathlib import Path

import certifi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mlflow_phi3.emulator.settings import save_whole

_LIFE = dt.timedelta(days=365)
_RENEWED = dt.timedelta(days=30)
"""Before their end: an emulator may run for long."""


def save_certificates(folder: Path, now: dt.datetime) -> None:
    """Write ``server.pem``, ``server.key`` and ``bundle.pem``.

    Those that are there stay, unless their time is as good as over.

    The bundle holds the public authorities too, so that trusting the emulator (by
    ``REQUESTS_CA_BUNDLE``) does not cut a process off from everything else.
    """
    if _lasts(folder / "server.pem", now):
        return
    authority_key = ec.generate_private_key(ec.SECP256R1())
    server_key = ec.generate_private_key(ec.SECP256R1())
    authority = _build("mlflow-phi3 emulator authority", authority_key, authority_key, now)
    server = _build("localhost", server_key, authority_key, now, issuer=authority.subject)
    pem = serialization.Encoding.PEM
    key = server_key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    signer = authority.public_bytes(pem)
    save_whole(folder / "server.key", key)
    save_whole(folder / "bundle.pem", signer + Path(certifi.where()).read_bytes())
    # The last, by which the others are known to be there, and to belong together.
    save_whole(folder / "server.pem", server.public_bytes(pem) + signer)


def _lasts(certificate: Path, now: dt.datetime) -> bool:
    if not certificate.exists():
        return False
    end = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    return end - now > _RENEWED


def _build(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    now: dt.datetime,
    *,
    issuer: x509.Name | None = None,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = now - dt.timedelta(minutes=5)
    is_authority = issuer is None
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    signed_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    places = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + _LIFE)
        .add_extension(x509.BasicConstraints(is_authority, 0 if is_authority else None), True)
        .add_extension(usage, True)
        .add_extension(identifier, False)
        .add_extension(signed_by, False)
        .add_extension(x509.SubjectAlternativeName(places), False)
        .sign(signer, hashes.SHA256())
    )

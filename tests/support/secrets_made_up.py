"""Secrets that never were any: made up piece by piece in the forms that issuers publish, so that no scanner takes them for real ones."""

from __future__ import annotations

import base64
import json

PEM = "-----BEGIN {0}PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\n-----END {0}PRIVATE KEY-----"


def made(length: int, alphabet: str = "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8") -> str:
    """Text of a secret's length and alphabet."""
    return (alphabet * (length // len(alphabet) + 1))[:length]


def b64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


JWT = f"{b64(json.dumps({'alg': 'HS256', 'typ': 'JWT'}))}.{b64(json.dumps({'sub': '1234567890'}))}.{made(43)}"
UPPER = made(16, "Q2R3S4T5U6V7WXYZ")

#: Kind, text around it, the secret in it.
FOUND = [
    ("aws", "id={}", f"AKIA{UPPER}"),
    ("aws", "key_{}_x", f"ASIA{UPPER}"),
    ("aws", "aws_secret_access_key = {}", made(40, "wJalrXUtnFEMI/K7MDENG+bPxRfiCYzq")),
    ("aws", '"SecretAccessKey": "{}"', made(40)),
    ("aws", "AWS_SESSION_TOKEN={}", made(300) + "=="),
    ("github", "{}", f"ghp_{made(36)}"),
    ("github", "x {} y", f"gho_{made(36)}"),
    ("github", "https://x-access-token:{}@github.com/o/r", f"ghs_{made(36)}"),
    ("github", "{}", f"ghu_{made(36)}"),
    ("github", "{}", f"ghr_{made(76)}"),
    ("github", "{}", f"github_pat_{made(22)}_{made(59)}"),
    ("gitlab", "{}", f"glpat-{made(20)}"),
    ("gitlab", "{}", f"gldt-{made(20)}"),
    ("gitlab", "{}", f"glrt-{made(20)}"),
    ("gitlab", "{}", f"GR1348941{made(20)}"),
    ("slack", "{}", f"xoxb-{made(11, '0123456789')}-{made(12, '0123456789')}-{made(24)}"),
    ("slack", "{}", f"xoxp-{made(11, '0123456789')}-{made(32, '0123456789abcdef')}"),
    ("slack", "{}", f"xapp-1-{made(11, 'A0B1C2')}-{made(13, '0123456789')}-{made(64, '0123456789abcdef')}"),
    ("slack", "https://hooks.slack.com/services/{}", f"T{made(8, 'A0B1C2')}/B{made(8, 'A0B1C2')}/{made(24)}"),
    ("google", "key={}&q=1", f"AIza{made(35)}"),
    ("google", "{}", f"ya29.{made(60)}"),
    ("google", "{}", f"GOCSPX-{made(28)}"),
    ("stripe", "{}", f"sk_live_{made(24)}"),
    ("stripe", "key:{}", f"rk_test_{made(99)}"),
    ("stripe", "{}", f"whsec_{made(32)}"),
    ("openai", "{}", f"sk-{made(20)}T3BlbkFJ{made(20)}"),
    ("openai", "{}", f"sk-proj-{made(74)}T3BlbkFJ{made(74)}"),
    ("openai", "{}", f"sk-svcacct-{made(58)}T3BlbkFJ{made(58)}"),
    ("anthropic", "{}", f"sk-ant-api03-{made(93)}AA"),
    ("anthropic", "{}", f"sk-ant-admin01-{made(93)}AA"),
    ("jwt", "token: {}", JWT),
    ("jwt", "{}", JWT.rpartition(".")[0] + "."),
    ("jwt", "{}", f"{b64(json.dumps({'alg': 'dir', 'enc': 'A256GCM'}))}..{made(16)}.{made(40)}.{made(22)}"),
    ("private_key", "{}", PEM.format("")),
    ("private_key", "a\n{}\nb", PEM.format("RSA ")),
    ("private_key", "{}", PEM.format("EC ").replace("\n", "\\n")),
    ("private_key", "{}", PEM.format("OPENSSH ")),
    ("private_key", "{}", PEM.format("ENCRYPTED ")),
    ("private_key", "{}", "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQdGBF\n-----END PGP PRIVATE KEY BLOCK-----"),
    ("private_key", "{}", "-----BEGIN PRIVATE KEY-----\nMIIEvQ and cut off"),
    ("private_key", "{}", "PuTTY-User-Key-File-3: ssh-ed25519\nPrivate-Lines: 1\nAAAA\nPrivate-MAC: 0123abcd"),
    ("bearer", "Authorization: Bearer {}", made(32)),
    ("bearer", "curl -H 'authorization: bearer {}'", made(32)),
    ("bearer", "Authorization: Basic {}", base64.b64encode(b"user:password").decode()),
    ("bearer", '{{"Authorization": "token {}"}}', made(40)),
    ("url_password", "https://user:{}@example.com/x", "hunter2"),
    ("url_password", "https:\\/\\/user:{}@example.com\\/x", "hunter2"),
    ("url_password", "git+ssh://:{}@host", "p%40ss"),
    ("url_password", "ftp://anna:{}@host", "p@ss:word"),
    ("url_password", "postgres://u:{}@db:5432/x", "pa/ss#w?rd"),
    ("url_password", "postgresql+asyncpg://u:{}@db/x", "s3cret"),
    ("url_password", "mongodb+srv://u:{}@cluster0.example.net/?retryWrites=true", "s3cret"),
    ("url_password", "redis://:{}@cache:6379/0", "s3cret"),
    ("connection_string", "Server=db;Database=x;User Id=u;Password={};Encrypt=true", "s3cret!"),
    ("connection_string", "Pwd={};Server=db", "s3cret!"),
    ("connection_string", "Driver=x;PWD={};Port=1", "{a;b}"),
    ("connection_string", "DefaultEndpointsProtocol=https;AccountName=n;AccountKey={};EndpointSuffix=core", made(86) + "=="),
    ("connection_string", "Endpoint=sb://x/;SharedAccessKeyName=Root;SharedAccessKey={}", made(43) + "="),
    ("connection_string", "host=localhost port=5432 dbname=x user=u password={}", "s3cret"),
    ("connection_string", "password={} host=localhost", "s3cret"),
]

"""The forms in which a secret may come back in a text."""

import base64
import html
import json
import shlex
from collections.abc import Callable, Mapping
from urllib.parse import quote, quote_plus

ENCODINGS: Mapping[str, Callable[[str], str]] = {
    "as it is": lambda secret: secret,
    "in other case": lambda secret: secret.upper() if secret.isascii() else secret,
    "as Python shows it": repr,
    "as Python shows it in ASCII": ascii,
    "as Python shows its bytes": lambda secret: repr(secret.encode()),
    "as JSON in ASCII": json.dumps,
    "as JSON": lambda secret: json.dumps(secret, ensure_ascii=False),
    "as JSON in JSON": lambda secret: json.dumps(json.dumps({"Init": secret})),
    "quoted by a shell": shlex.quote,
    "with backslashes": lambda secret: "".join(each if each.isalnum() else f"\\{each}" for each in secret),
    "percent-encoded": lambda secret: quote(secret, safe=""),
    "as a form": quote_plus,
    "in a URL": lambda secret: f"https://admin:{quote(secret, safe='')}@registry.local/v2",
    "as HTML": html.escape,
    "in hexadecimal digits": lambda secret: secret.encode().hex(),
    "in base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "in base64 for URLs": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode(),
    "in basic authentication": lambda secret: f"Basic {base64.b64encode(f'user:{secret}'.encode()).decode()}",
    "at another place in base64": lambda secret: base64.b64encode(f"admin:{secret}!".encode()).decode(),
    "in wrapped base64": lambda secret: base64.encodebytes(f"{'x' * 50}{secret}".encode()).decode(),
}

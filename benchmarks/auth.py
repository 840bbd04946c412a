"""What it costs to ask callers who they are: the same calls to two servers, one of which takes tokens.

Both are up, and slices come in turn, so that the machine's noise is in both; a ratio is that of one pair of slices.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from benchmarks import contestants
from benchmarks.bench import Bench
from benchmarks.contestants import Contestant, Running

_SLICES = 4  # of each server and call, in a round
_ISSUER, _AUDIENCE, _KEY_ID = "login.example.org", "enrollment", "bench"
_LIFETIME = 3600


def authenticated(bench: Bench, url: str) -> None:
    """Calls a second with a token, over those of a server that asks nobody."""
    measures = "auth.list", "auth.enroll"
    with bench.measuring(*measures):
        contestant, token = _guarded(bench.logs)
        with bench.running(contestants.SERVICE, url) as open_to_all, bench.running(contestant, url) as guarded:
            for call in ("list", "enroll"):
                with bench.phase("auth"):
                    ratios = [_pair(bench, call, open_to_all, guarded, token) for _ in range(_SLICES)]
                bench.note(f"auth.{call}", median(ratios))


def _pair(bench: Bench, call: str, open_to_all: Running, guarded: Running, token: str) -> float:
    without = bench.generator.slice(open_to_all.address, call, bench.scale)
    return bench.generator.slice(guarded.address, call, bench.scale, token=token).rate / without.rate


def _guarded(folder: Path) -> tuple[Contestant, str]:
    """The service as it takes tokens, and one that it takes."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": _KEY_ID, "use": "sig", "alg": "ES256"}
    keys = (folder / "keys.json").absolute()
    keys.write_text(json.dumps({"keys": [public]}))
    settings = {"AUTH": "jwt", "JWT_ISSUER": _ISSUER, "JWT_AUDIENCE": _AUDIENCE, "JWT_JWKS": f"{keys}"}
    variables = {f"ENROLLMENT_{name}": value for name, value in settings.items()}
    now = int(time.time())
    claims = {"iss": _ISSUER, "aud": _AUDIENCE, "sub": "bench", "iat": now, "exp": now + _LIFETIME}
    token = jwt.encode(claims | {"roles": ["registrar"]}, key, "ES256", headers={"kid": _KEY_ID})
    service = contestants.SERVICE
    return replace(service, name="service_jwt", environment={**service.environment, **variables}), token

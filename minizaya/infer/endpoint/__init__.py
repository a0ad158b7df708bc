"""Markovian RSA over any server: `client` asks, with tries and pauses; `answers` reads what comes back;
`run_file` keeps what has been paid for."""

from .client import Endpoint as Endpoint
from .client import retry_after as retry_after

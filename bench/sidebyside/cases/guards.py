"""Case (f): rate limit, token and session checks, on against off.

Evener has none of them yet; the work that builds them adds their variants here: the same load as
`1 kB × 64` of case (a), with the guard in Evener's and the peers' configurations.
"""

from __future__ import annotations

from sidebyside.session import Session

GUARDS = ("rate limit", "JWT", "session")


def measure(session: Session) -> None:
    """Says what is not there yet."""
    for guard in GUARDS:
        session.skip(f"(f) {guard}: not there yet in Evener")

"""Every row of the list of attacks that concerns the SMTP server, by its ID.

S1 S2 S3 S4 S5 S6 S7 S8 S9 S10 S11 S12 S13 S14 S15 S16 S17 S18 S19 S20 S21 (rows/smuggling.py)
T1 T2 T3 T4 T5 T6 T7 T8 T10 T11 T12 T15 (rows/tls.py)
P1 P2 P3 P4 P5 P6 P7 P8 P9 P10 P11 P12 P13 P14 P16 P17 P18 P19 P20 P21 P22 P23 P24 P26 P27 P28 P29 P30 (rows/parser.py)
R1 R2 R3 R4 R5 R6 R7 R8 R9 R10 R11 R12 R13 R14 R17 R18 B1 B2 B3 B4 B8 (rows/relaying.py)
A1 A2 A4 A5 A6 B16 B17 B18 B19 L1s L2s L3s L7s L8s H5 H6 H8 H12 (rows/abuse.py)
L6s (rows/delivery.py)

With real programs: T9 (tests/e2e/test_smtp.py). Of other rooms: A3 (auth), L9s and the gate's half of R12, B18 and B19 (net),
SO1 to SO10, T13, T14, P15, P25, R15, B5 to B7, B9, B15, L4s and L5s (delivery and mailet). Against the whole server:
tests/e2e/test_attacks.py. Not there yet: B10 to B14 (a cap on notices, signed return paths, reports of others) and H1 to H4 and
R16 (mail by HTTP).
"""

from __future__ import annotations

import re

import pytest

from tests.conformance.rows import ROWS, abuse, delivery, parser, relaying, smuggling, tls
from tests.sessions.harness import run

MODULES = (smuggling, tls, parser, relaying, abuse, delivery)


@pytest.mark.parametrize("row", sorted(ROWS))
def test_row(row: str) -> None:
    run(ROWS[row](row))


def test_no_row_is_missing() -> None:
    assert __doc__ is not None
    listed = set(re.findall(r"\b[STPRABLH]\d+s?\b", __doc__.split("With real programs")[0].partition("\n")[2]))
    assert listed == set(ROWS)
    for module in MODULES:
        assert any(scenario.__module__ == module.__name__ for scenario in ROWS.values())

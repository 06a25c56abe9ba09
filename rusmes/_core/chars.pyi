"""Classes of octets: the table that lexers index instead of asking the locale."""


def classes_of(octet: int) -> frozenset[str]:
    """The names of the classes an octet belongs to; for tests of the table.

    Raises:
        ValueError: not an octet.
    """

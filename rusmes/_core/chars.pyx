"""Classes of octets: the table that lexers index instead of asking the locale."""


cdef int _fill() except -1:
    cdef int c
    cdef unsigned char bits
    letters = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
    digits = frozenset(b"0123456789")
    special = frozenset(b"!#$%&'*+-/=?^_`{|}~")
    for c in range(256):
        bits = 0
        if c in letters or c in digits:
            bits |= LET_DIG | LDH | ATEXT
        if c in special:
            bits |= ATEXT
        if c == 0x2D or c == 0x5F:
            bits |= LDH
        if c in digits:
            bits |= DIGIT | HEX
        if 65 <= c <= 70:
            bits |= HEX
        if 65 <= c <= 90:
            bits |= UPPER
        if 33 <= c <= 126:
            bits |= VALUE
            if c != 0x2B and c != 0x3D:
                bits |= XCHAR
        if c > 127:
            bits |= VALUE
        CLASSES[c] = bits
    return 0


_fill()


def classes_of(int octet) -> frozenset:
    """The names of the classes an octet belongs to; for tests of the table."""
    names = ("ATEXT", "LET_DIG", "LDH", "DIGIT", "XCHAR", "VALUE", "UPPER", "HEX")
    if not 0 <= octet <= 255:
        raise ValueError("an octet is 0 to 255")
    return frozenset(name for bit, name in enumerate(names) if CLASSES[octet] >> bit & 1)

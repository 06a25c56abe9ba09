import string

import pytest

from rusmes._core.chars import classes_of


def octets_of(name):
    return {c for c in range(256) if name in classes_of(c)}


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("ATEXT", string.ascii_letters + string.digits + "!#$%&'*+-/=?^_`{|}~"),
        ("LET_DIG", string.ascii_letters + string.digits),
        ("LDH", string.ascii_letters + string.digits + "-_"),
        ("DIGIT", string.digits),
        ("UPPER", string.ascii_uppercase),
        ("HEX", string.digits + "ABCDEF"),
        ("XCHAR", "".join(chr(c) for c in range(33, 127) if chr(c) not in "+=")),
        ("VALUE", "".join(chr(c) for c in [*range(33, 127), *range(128, 256)])),
    ],
)
def test_a_class_has_the_members_its_rfc_gives_it(name, members):
    assert octets_of(name) == {ord(c) for c in members}


@pytest.mark.parametrize("octet", [-1, 256])
def test_only_octets_have_classes(octet):
    with pytest.raises(ValueError, match="octet"):
        classes_of(octet)

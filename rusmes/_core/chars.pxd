# Classes of octets, as bits in one table of 256.

cdef enum:
    ATEXT = 1        # RFC 5322 §3.2.3
    LET_DIG = 2      # RFC 5321 §4.1.2
    LDH = 4          # letters, digits, hyphen; and the underscore, which host names in use contain
    DIGIT = 8
    XCHAR = 16       # RFC 3461 §4: "!" to "~" but "+" and "="
    VALUE = 32       # RFC 5321 §4.1.2 esmtp-value, and octets above 127 (RFC 6531 §3.3)
    UPPER = 64
    HEX = 128        # RFC 3461 §4: digits and capitals A to F

cdef unsigned char CLASSES[256]

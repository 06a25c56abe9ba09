# Texts of header fields, and strings as IMAP sends them
cdef bytes unfolded(bytes value)
cdef bytes quoted(bytes value)

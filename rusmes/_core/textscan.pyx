"""Searching emails where they lie. See `textscan.pyi`; `textpipe` decodes and compares.

The walk over the parts of a message is `rusmes.mime.structure` once more, without a tree: same rules, same limits, same results
(the tests compare them), because what a client fetches as part 2.1 is what a search has looked at.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memcpy, memset

from rusmes._core.casemap cimport Pattern
from rusmes._core.emailrow cimport BlobPlaces, EmailPlaces, find_blob_places, find_email_places
from rusmes._core.pages cimport Table
from rusmes._core.textpipe cimport BASE64, IDENTITY, QUOTED_PRINTABLE, TextPipe


cdef extern from "string.h" nogil:
    void* memmem(const void*, size_t, const void*, size_t)


cdef enum:
    K_HEADER = 0
    K_TEXT = 1
    K_BODY = 2
    TERMS = 64
    ID_OCTETS = 16
    MAX_DEPTH = 32                   # as rusmes.mime.structure
    MAX_PARTS = 2000
    MAX_BOUNDARY_OCTETS = 200
    MAX_CHARSET_OCTETS = 40
    MAX_VALUE_OCTETS = 16 * 1024
    MAX_PARAMETERS = 50
    MAX_HEADER_OCTETS = 256 * 1024   # as rusmes.mime.fields

HEADER, TEXT, BODY, MAX_TERMS = K_HEADER, K_TEXT, K_BODY, TERMS

# What a row was found to be.
cdef enum:
    MISSING = 1
    IN_FILE = 2

# What is done with a part.
cdef enum:
    P_OTHER = 0
    P_TEXT = 1
    P_MULTIPART = 2
    P_MESSAGE = 3                    # message/rfc822 and message/global
    P_REPORT = 4                     # other message types: their text


# Characters

cdef inline bint is_space(unsigned char c) noexcept nogil:
    return c == 32 or 9 <= c <= 13


cdef inline bint is_blank(unsigned char c) noexcept nogil:
    return c == 32 or c == 9


cdef inline unsigned char lower(unsigned char c) noexcept nogil:
    return c | 32 if 65 <= c <= 90 else c


cdef inline unsigned char upper(unsigned char c) noexcept nogil:
    return c - 32 if 97 <= c <= 122 else c


cdef inline bint is_token(unsigned char c) noexcept nogil:
    """RFC 2045 §5.1, as `rusmes.mime.structure` has it."""
    return c == 33 or 35 <= c <= 39 or c == 42 or c == 43 or c == 45 or c == 46 or 48 <= c <= 57 or 65 <= c <= 90 or 94 <= c <= 126


cdef inline bint is_word(const unsigned char* p, Py_ssize_t n, const char* word, Py_ssize_t size) noexcept nogil:
    """Whether it is this word, given in lower case."""
    cdef Py_ssize_t i
    if n != size:
        return False
    for i in range(n):
        if lower(p[i]) != <unsigned char>word[i]:
            return False
    return True


cdef inline Py_ssize_t line_end(const unsigned char* p, Py_ssize_t i, Py_ssize_t n) noexcept nogil:
    """The offset of the LF that ends the line at i, or n."""
    cdef const unsigned char* at
    if i >= n:
        return n
    at = <const unsigned char*>memchr(p + i, c'\n', <size_t>(n - i))
    return n if at == NULL else at - p


cdef Py_ssize_t next_field(
    const unsigned char* p, Py_ssize_t i, Py_ssize_t n, Py_ssize_t* name_at, Py_ssize_t* name_end, Py_ssize_t* value_at,
    Py_ssize_t* value_end,
) noexcept nogil:
    """The next field at or after i (RFC 5322 §2.2, §4.5); the offset behind it, or -1. As `_core.mime.parse_and_pick` does it."""
    cdef Py_ssize_t stop, colon, end
    while i < n:
        stop = i
        while stop < n and 33 <= p[stop] <= 126 and p[stop] != c':':
            stop += 1
        colon = stop
        while colon < n and is_blank(p[colon]):
            colon += 1
        end = line_end(p, stop, n)
        if stop == i or colon >= n or p[colon] != c':':
            i = end + 1
            continue
        while end + 1 < n and is_blank(p[end + 1]):
            end = line_end(p, end + 1, n)
        name_at[0] = i
        name_end[0] = stop
        value_at[0] = colon + 1
        value_end[0] = end
        return end + 1
    return -1


cdef Py_ssize_t header_end(const unsigned char* p, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """Behind the first empty line, or `end`; LF alone ends a line too."""
    cdef Py_ssize_t i = start
    while i < end:
        if p[i] == c'\n':
            return i + 1
        if p[i] == c'\r' and i + 1 < end and p[i + 1] == c'\n':
            return i + 2
        i = line_end(p, i, end) + 1
    return end


cdef Py_ssize_t next_boundary(
    const unsigned char* p, Py_ssize_t start, Py_ssize_t end, const unsigned char* delimiter, Py_ssize_t size,
    Py_ssize_t* after, bint* is_closing,
) noexcept nogil:
    """The offset of the next line with the delimiter ("--" is a part of it), or `end`."""
    cdef Py_ssize_t at = start
    cdef Py_ssize_t tail, stop, rest
    cdef const unsigned char* found
    while at < end:
        found = <const unsigned char*>memmem(p + at, <size_t>(end - at), delimiter, <size_t>size)
        if found == NULL:
            break
        at = found - p
        tail = at + size
        if at == start or p[at - 1] == c'\n':
            stop = line_end(p, tail, end)
            stop = stop + 1 if stop < end else end
            rest = min(stop, tail + 80)
            while rest > tail and is_space(p[rest - 1]):
                rest -= 1
            if rest == tail or (rest == tail + 2 and p[tail] == c'-' and p[tail + 1] == c'-'):
                after[0] = stop
                is_closing[0] = rest > tail
                return at
        at = tail
    after[0] = end
    is_closing[0] = False
    return end


cdef class EmailReader:
    def __cinit__(self, Py_ssize_t size, *args, **kwargs):
        if size < 0:
            raise ValueError("a size is not below 0")
        self.size = size

    cdef bint needs_body(self, const Message* message) noexcept nogil:
        return True

    cdef int look(self, Py_ssize_t position, const Message* message, const unsigned char* thread_id) except -1:
        return 0

    cdef int look_at_all(self, Py_ssize_t first, Py_ssize_t count, const Message* messages, const EmailPlaces* places) except -1:
        cdef Py_ssize_t i
        for i in range(count):
            if places[i].blob_id != NULL and messages[i].has_body:
                self.look(first + i, &messages[i], places[i].thread_id)
        return 0

    def take(self, Py_ssize_t first, uint64_t account_id, list ids not None, list emails not None, get_blobs, open_file) -> None:
        cdef Py_ssize_t count = len(ids)
        cdef EmailPlaces* places
        cdef Message* messages
        if first < 0 or first + count > self.size:
            raise IndexError(first + count)
        places = <EmailPlaces*>calloc(<size_t>count + 1, sizeof(EmailPlaces))
        messages = <Message*>calloc(<size_t>count + 1, sizeof(Message))
        try:
            if places == NULL or messages == NULL:
                raise MemoryError
            find_emails(account_id, ids, emails, places, messages)
            self.find_bodies(first, count, places, messages, get_blobs, open_file)
        finally:
            free(places)
            free(messages)

    def take_pages(
        self, Py_ssize_t first, uint64_t account_id, list ids not None, Table emails not None, Table blobs not None, open_file
    ) -> list:
        cdef Py_ssize_t count = len(ids)
        cdef Py_ssize_t i
        cdef Py_ssize_t size = 0
        cdef const unsigned char* row
        cdef BlobPlaces blob
        cdef bytes id
        cdef EmailPlaces* places
        cdef Message* messages
        cdef const unsigned char** keys
        cdef unsigned char* kinds
        if first < 0 or first + count > self.size:
            raise IndexError(first + count)
        places = <EmailPlaces*>calloc(<size_t>count + 1, sizeof(EmailPlaces))
        messages = <Message*>calloc(<size_t>count + 1, sizeof(Message))
        keys = <const unsigned char**>calloc(<size_t>count + 1, sizeof(unsigned char*))
        kinds = <unsigned char*>calloc(<size_t>count + 1, 1)
        try:
            if places == NULL or messages == NULL or keys == NULL or kinds == NULL:
                raise MemoryError
            for i in range(count):
                id = <bytes?>ids[i]
                if PyBytes_GET_SIZE(id) != ID_OCTETS:
                    raise ValueError("the id of an email has 16 octets")
                keys[i] = <const unsigned char*>PyBytes_AS_STRING(id)
            with nogil:
                for i in range(count):
                    row = emails.find(keys[i], ID_OCTETS, &size)
                    if row == NULL or not find_email_places(row, size, &places[i]):
                        places[i].blob_id = NULL
                        kinds[i] = MISSING
                        continue
                    if places[i].account_id != account_id:
                        places[i].blob_id = NULL
                        continue
                    set_message(&messages[i], &places[i])
                    if not self.needs_body(&messages[i]):
                        messages[i].has_body = True
                        continue
                    row = blobs.find(places[i].blob_id, ID_OCTETS, &size)
                    if row == NULL or not find_blob_places(row, size, &blob):
                        kinds[i] = MISSING
                    elif blob.is_file:
                        kinds[i] = IN_FILE
                        messages[i].header_size = <Py_ssize_t>blob.header_size
                    else:
                        set_body(&messages[i], blob.body, <Py_ssize_t>blob.size, <Py_ssize_t>blob.header_size)
            self.look_at_all(first, count, messages, places)
            self.look_in_files(
                first,
                [
                    (i, PyBytes_FromStringAndSize(<const char*>places[i].blob_id, ID_OCTETS))
                    for i in range(count) if kinds[i] == IN_FILE
                ],
                places, messages, open_file,
            )
            return [i for i in range(count) if kinds[i] == MISSING]
        finally:
            free(places)
            free(messages)
            free(keys)
            free(kinds)

    cdef int find_bodies(
        self, Py_ssize_t first, Py_ssize_t count, EmailPlaces* places, Message* messages, object get_blobs, object open_file
    ) except -1:
        cdef list wanted = []
        cdef list whose = []
        cdef list in_files = []
        cdef list rows = []
        cdef BlobPlaces blob
        cdef Py_buffer view
        cdef Py_ssize_t i
        cdef Py_ssize_t at = 0
        for i in range(count):
            if places[i].blob_id == NULL:
                continue
            if self.needs_body(&messages[i]):
                whose.append(i)
                wanted.append(PyBytes_FromStringAndSize(<const char*>places[i].blob_id, ID_OCTETS))
            else:
                messages[i].has_body = True
        if wanted:
            rows = get_blobs(wanted)
        for key, value in rows:
            while at < len(wanted) and <bytes>wanted[at] != key:
                at += 1
            if at == len(wanted):
                break
            i = whose[at]
            PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
            if find_blob_places(<const unsigned char*>view.buf, view.len, &blob):
                if blob.is_file:
                    in_files.append((i, wanted[at]))
                else:
                    set_body(&messages[i], blob.body, <Py_ssize_t>blob.size, <Py_ssize_t>blob.header_size)
                messages[i].header_size = <Py_ssize_t>blob.header_size
            PyBuffer_Release(&view)
            at += 1
        self.look_at_all(first, count, messages, places)
        return self.look_in_files(first, in_files, places, messages, open_file)

    cdef int look_in_files(
        self, Py_ssize_t first, list in_files, EmailPlaces* places, Message* messages, object open_file
    ) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t i
        for i, blob_id in in_files:
            with open_file(blob_id) as buffer:
                PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
                try:
                    set_body(&messages[i], <const unsigned char*>view.buf, view.len, messages[i].header_size)
                    self.look(first + i, &messages[i], places[i].thread_id)
                finally:
                    PyBuffer_Release(&view)
        return 0

    def take_message(
        self, Py_ssize_t position, bytes thread_id not None, bytes cached not None, bytes prefix not None, body,
        Py_ssize_t skip, Py_ssize_t header_size,
    ) -> None:
        cdef Message message
        cdef Py_buffer view
        if position < 0 or position >= self.size:
            raise IndexError(position)
        if PyBytes_GET_SIZE(thread_id) != ID_OCTETS:
            raise ValueError("the id of a thread has 16 octets")
        memset(&message, 0, sizeof(Message))
        message.cached = <const unsigned char*>PyBytes_AS_STRING(cached)
        message.cached_size = PyBytes_GET_SIZE(cached)
        message.prefix = <const unsigned char*>PyBytes_AS_STRING(prefix)
        message.prefix_size = PyBytes_GET_SIZE(prefix)
        message.skip = max(skip, 0)
        PyObject_GetBuffer(body, &view, PyBUF_SIMPLE)
        try:
            set_body(&message, <const unsigned char*>view.buf, view.len, header_size)
            self.look(position, &message, <const unsigned char*>PyBytes_AS_STRING(thread_id))
        finally:
            PyBuffer_Release(&view)


cdef void set_body(Message* message, const unsigned char* p, Py_ssize_t size, Py_ssize_t header_size) noexcept nogil:
    message.body = p
    message.size = size
    message.header_size = min(max(header_size, 0), size)
    message.skip = min(message.skip, size)
    message.has_body = True


cdef int find_emails(uint64_t account_id, list ids, list rows, EmailPlaces* places, Message* messages) except -1:
    """What the rows say; an email without one, or of another account, has no blob id. The buffers' owners outlive the call."""
    cdef Py_buffer view
    cdef Py_ssize_t at = 0
    cdef EmailPlaces place
    for key, value in rows:
        while at < len(ids) and <bytes>ids[at] != key:
            at += 1
        if at == len(ids):
            break
        PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
        if find_email_places(<const unsigned char*>view.buf, view.len, &place) and place.account_id == account_id:
            places[at] = place
            set_message(&messages[at], &place)
        PyBuffer_Release(&view)
        at += 1
    return 0


cdef void set_message(Message* message, const EmailPlaces* place) noexcept nogil:
    message.cached = place.headers
    message.cached_size = place.headers_size
    message.prefix = place.prefix
    message.prefix_size = place.prefix_size
    message.skip = <Py_ssize_t>min(place.skip, <uint64_t>0x7FFFFFFFFFFFFFFF)


@cython.final
cdef class TextScan(EmailReader):
    def __cinit__(self, Py_ssize_t size, terms, frozenset cached not None):
        cdef int i
        cdef uint64_t bit
        cdef Term* term
        cdef bytes name
        terms = tuple(terms)
        if len(terms) > TERMS:
            raise ValueError(f"at most {TERMS} terms")
        self.count = <int>len(terms)
        self.names = [name for _, name, _ in terms]
        self.patterns = [Pattern(text) for _, _, text in terms]
        self.pipe = TextPipe.__new__(TextPipe, self.patterns)
        self.found_at = [bytearray(size) for _ in terms]
        for i in range(self.count):
            bit = <uint64_t>1 << i
            term = &self.terms[i]
            name = self.names[i]
            term.kind = terms[i][0]
            term.name = <const unsigned char*>PyBytes_AS_STRING(name)
            term.name_size = PyBytes_GET_SIZE(name)
            term.is_cached = term.kind == K_HEADER and name in cached
            if term.kind == K_HEADER:
                if term.name_size:
                    self.begins[lower(term.name[0])] = self.begins[upper(term.name[0])] = True
                self.header_terms |= bit
                if term.is_cached:
                    self.cached_terms |= bit
            elif (<Pattern>self.patterns[i]).needle.n == 0:
                self.always |= bit
            elif term.kind == K_TEXT:
                self.text_terms |= bit
            else:
                self.body_terms |= bit

    def hits(self, int term) -> bytes:
        return bytes(self.found_at[term])

    cdef bint needs_body(self, const Message* message) noexcept nogil:
        return (self.text_terms | self.body_terms) != 0 or (
            self.header_terms & ~(self.cached_terms if message.cached_size else 0)
        ) != 0

    cdef int look(self, Py_ssize_t position, const Message* message, const unsigned char* thread_id) except -1:
        cdef uint64_t found
        cdef int i
        with nogil:
            found = self.scan(message)
        if self.pipe.failed:
            raise MemoryError
        for i in range(self.count):
            if found >> i & 1:
                PyByteArray_AS_STRING(self.found_at[i])[position] = 1
        return 0

    cdef int look_at_all(self, Py_ssize_t first, Py_ssize_t count, const Message* messages, const EmailPlaces* places) except -1:
        cdef char* hits[TERMS]
        cdef uint64_t found
        cdef Py_ssize_t i
        cdef int k
        for k in range(self.count):
            hits[k] = PyByteArray_AS_STRING(self.found_at[k]) + first
        with nogil:
            for i in range(count):
                if places[i].blob_id == NULL or not messages[i].has_body:
                    continue
                found = self.scan(&messages[i])
                for k in range(self.count):
                    if found >> k & 1:
                        hits[k][i] = 1
        if self.pipe.failed:
            raise MemoryError
        return 0

    cdef uint64_t scan(self, const Message* message) noexcept nogil:
        """The terms that are in the message, a bit for each."""
        cdef uint64_t fields = self.header_terms
        cdef PartHead head
        cdef Py_ssize_t own = message.header_size - message.skip
        self.pipe.found = 0
        self.todo = fields | self.text_terms | self.body_terms
        if message.cached_size and self.cached_terms:
            self.take_fields(message.cached, message.cached_size, self.cached_terms)
            fields &= ~self.cached_terms
        if message.body == NULL:
            return self.pipe.found | self.always
        if fields:
            self.take_fields(message.prefix, message.prefix_size, fields)
            self.take_fields(message.body + message.skip, own, fields)
        self.todo &= self.text_terms | self.body_terms
        if self.todo:
            self.take_header(message.prefix, message.prefix_size, self.text_terms)
            self.take_header(message.body + message.skip, own, self.text_terms)
        if self.todo:
            memset(&head, 0, sizeof(PartHead))
            head.kind = P_TEXT
            self.part_count = 0
            self.read_head(message.prefix, message.prefix_size, &head)
            self.read_head(message.body + message.skip, own, &head)
            self.take_part(message.body, max(message.header_size, message.skip), message.size, 0, &head)
        return self.pipe.found | self.always

    cdef void take_fields(self, const unsigned char* p, Py_ssize_t n, uint64_t terms) noexcept nogil:
        """Look for texts in the fields that are named by the terms."""
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t name_at = 0, name_end = 0, value_at = 0, value_end = 0
        cdef int k
        cdef uint64_t bit
        n = min(n, MAX_HEADER_OCTETS)
        while self.todo & terms:
            while i < n and not self.begins[p[i]]:
                i = line_end(p, i, n) + 1
            i = next_field(p, i, n, &name_at, &name_end, &value_at, &value_end)
            if i < 0:
                break
            for k in range(self.count):
                bit = <uint64_t>1 << k
                if self.todo & terms & bit and is_word(
                    p + name_at, name_end - name_at, <const char*>self.terms[k].name, self.terms[k].name_size
                ):
                    if self.pipe.needle[k].n == 0:
                        self.pipe.found |= bit
                    else:
                        self.pipe.wanted = bit
                        self.pipe.take_header(p + value_at, value_end - value_at)
            self.todo &= ~self.pipe.found

    cdef void take_header(self, const unsigned char* p, Py_ssize_t n, uint64_t terms) noexcept nogil:
        self.pipe.wanted = self.todo & terms
        if self.pipe.wanted and n > 0:
            self.pipe.take_header(p, n)
            self.todo &= ~self.pipe.found

    cdef void read_head(self, const unsigned char* p, Py_ssize_t n, PartHead* head) noexcept nogil:
        """Type, boundary, charset and encoding, unless they are known already."""
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t name_at = 0, name_end = 0, value_at = 0, value_end = 0, end
        n = min(n, MAX_HEADER_OCTETS)
        while not (head.has_type and head.has_encoding):
            i = next_field(p, i, n, &name_at, &name_end, &value_at, &value_end)
            if i < 0:
                break
            if not head.has_type and is_word(p + name_at, name_end - name_at, b"content-type", 12):
                head.has_type = True
                self.read_type(p + value_at, value_end - value_at, head)
            elif not head.has_encoding and is_word(p + name_at, name_end - name_at, b"content-transfer-encoding", 25):
                head.has_encoding = True
                while value_at < value_end and is_space(p[value_at]):
                    value_at += 1
                end = value_at
                while end < value_end and is_token(p[end]):
                    end += 1
                if is_word(p + value_at, end - value_at, b"base64", 6):
                    head.encoding = BASE64
                elif is_word(p + value_at, end - value_at, b"quoted-printable", 16):
                    head.encoding = QUOTED_PRINTABLE

    cdef void read_type(self, const unsigned char* p, Py_ssize_t n, PartHead* head) noexcept nogil:
        """What cannot be read changes nothing."""
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t kind_at, kind_end, subtype_at, subtype_end
        while i < n and is_space(p[i]):
            i += 1
        kind_at = i
        while i < n and is_token(p[i]):
            i += 1
        kind_end = i
        while i < n and is_space(p[i]):
            i += 1
        if kind_end == kind_at or i >= n or p[i] != c'/':
            return
        i += 1
        while i < n and is_space(p[i]):
            i += 1
        subtype_at = i
        while i < n and is_token(p[i]):
            i += 1
        subtype_end = i
        if subtype_end == subtype_at:
            return
        if is_word(p + kind_at, kind_end - kind_at, b"text", 4):
            head.kind = P_TEXT
        elif is_word(p + kind_at, kind_end - kind_at, b"multipart", 9):
            head.kind = P_MULTIPART
            head.is_digest = is_word(p + subtype_at, subtype_end - subtype_at, b"digest", 6)
        elif is_word(p + kind_at, kind_end - kind_at, b"message", 7):
            head.kind = P_REPORT
            if is_word(p + subtype_at, subtype_end - subtype_at, b"rfc822", 6) or is_word(
                p + subtype_at, subtype_end - subtype_at, b"global", 6
            ):
                head.kind = P_MESSAGE
        else:
            head.kind = P_OTHER
        if head.kind != P_OTHER and memchr(p + i, c'=', <size_t>(n - i)) != NULL:
            self.read_parameters(p + i, n - i, head)

    cdef void read_parameters(self, const unsigned char* p, Py_ssize_t n, PartHead* head) noexcept nogil:
        """RFC 2045 §5.1: the first charset and the first boundary. As `rusmes.mime.structure.parse_parameters` reads them."""
        cdef unsigned char* q
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t k = 0
        cdef Py_ssize_t name_at, name_end, value_at, value_end
        cdef bint has_charset = False
        cdef bint has_boundary = False
        cdef bint is_quoted
        cdef int found = 0
        n = min(n, MAX_VALUE_OCTETS)
        if not self.pipe.has_room(n):
            return
        q = self.pipe.scratch
        while i < n:   # unfolded
            if p[i] != 0 and p[i] != c'\n':
                q[k] = p[i]
                k += 1
            elif p[i] == c'\n':
                while k > 0 and q[k - 1] == c'\r':
                    k -= 1
            i += 1
        n = k
        while n and (is_blank(q[n - 1]) or q[n - 1] == c'\r'):
            n -= 1
        i = 0
        while i < n and found < MAX_PARAMETERS and not (has_charset and has_boundary):
            while i < n and (q[i] == c';' or is_space(q[i])):
                i += 1
            name_at = i
            while i < n and not is_space(q[i]) and q[i] != c';' and q[i] != c'=' and q[i] != c'"':
                i += 1
            name_end = i
            if name_end == name_at:
                i += 1
                continue
            while i < n and is_space(q[i]):
                i += 1
            if i >= n or q[i] != c'=':
                i = name_end
                continue
            i += 1
            while i < n and is_space(q[i]):
                i += 1
            is_quoted = i < n and q[i] == c'"'
            if is_quoted:
                i += 1
                value_at = value_end = i
                while i < n and q[i] != c'"':
                    if q[i] == c'\\':
                        if i + 1 == n:
                            break
                        i += 1
                    q[value_end] = q[i]
                    value_end += 1
                    i += 1
                if i < n and q[i] == c'"':
                    i += 1
            else:
                value_at = i
                while i < n and q[i] != c';' and not is_space(q[i]):
                    i += 1
                value_end = i
            found += 1
            while i < n and q[i] != c';':
                i += 1
            if not has_boundary and is_word(q + name_at, name_end - name_at, b"boundary", 8):
                has_boundary = True
                while value_end > value_at and is_space(q[value_end - 1]):
                    value_end -= 1
                if 0 < value_end - value_at <= MAX_BOUNDARY_OCTETS:
                    head.boundary_size = value_end - value_at
                    memcpy(head.boundary, q + value_at, <size_t>head.boundary_size)
            elif not has_charset and is_word(q + name_at, name_end - name_at, b"charset", 7):
                has_charset = True
                while value_end > value_at and is_space(q[value_end - 1]):
                    value_end -= 1
                while value_at < value_end and is_space(q[value_at]):
                    value_at += 1
                if value_end - value_at <= MAX_CHARSET_OCTETS:
                    head.charset_size = value_end - value_at
                    for k in range(head.charset_size):
                        head.charset[k] = lower(q[value_at + k])

    cdef void take_part(
        self, const unsigned char* p, Py_ssize_t start, Py_ssize_t end, int depth, PartHead* head
    ) noexcept nogil:
        self.part_count += 1
        if depth < MAX_DEPTH and self.part_count < MAX_PARTS:
            if head.kind == P_MULTIPART:
                self.take_parts(p, start, end, depth, head)
                return
            if head.kind == P_MESSAGE:
                self.take_whole(p, start, end, depth + 1, False, True)
                return
        if head.kind == P_TEXT or head.kind == P_MESSAGE or head.kind == P_REPORT:
            self.pipe.wanted = self.todo & (self.text_terms | self.body_terms)
            if self.pipe.wanted and start < end:
                self.pipe.take_text(p + start, end - start, head.encoding, head.charset, head.charset_size)
                self.todo &= ~self.pipe.found

    cdef void take_whole(
        self, const unsigned char* p, Py_ssize_t start, Py_ssize_t end, int depth, bint is_digest, bint is_message
    ) noexcept nogil:
        """A part or a message that begins with its header. That of a message is text of the one it is in."""
        cdef Py_ssize_t body = header_end(p, start, end)
        cdef PartHead head
        if not self.todo:
            return
        memset(&head, 0, sizeof(PartHead))
        head.kind = P_MESSAGE if is_digest else P_TEXT
        self.take_header(p + start, body - start, self.text_terms | (self.body_terms if is_message else 0))
        self.read_head(p + start, body - start, &head)
        self.take_part(p, body, end, depth, &head)

    cdef void take_parts(
        self, const unsigned char* p, Py_ssize_t start, Py_ssize_t end, int depth, PartHead* head
    ) noexcept nogil:
        cdef unsigned char delimiter[MAX_BOUNDARY_OCTETS + 2]
        cdef Py_ssize_t size = head.boundary_size + 2
        cdef Py_ssize_t begin = -1
        cdef Py_ssize_t at = start
        cdef Py_ssize_t after = 0
        cdef Py_ssize_t line, stop
        cdef bint is_closing = False
        if head.boundary_size == 0:
            return
        delimiter[0] = delimiter[1] = c'-'
        memcpy(delimiter + 2, head.boundary, <size_t>head.boundary_size)
        while not is_closing and self.part_count < MAX_PARTS and self.todo:
            line = next_boundary(p, at, end, delimiter, size, &after, &is_closing)
            if begin >= 0:
                stop = end
                if line < end:   # RFC 2046 §5.1.1: the line end before a boundary belongs to it
                    stop = line - 2 if line - 2 >= begin and p[line - 2] == c'\r' else line - 1 if line > begin else line
                    stop = max(begin, stop)
                self.take_whole(p, begin, stop, depth + 1, head.is_digest, False)
            if line >= end:
                return
            begin = at = after


@cython.final
cdef class FieldReader(EmailReader):
    def __cinit__(self, Py_ssize_t size, tuple names not None, frozenset cached not None):
        self.names = names
        self.has_names = bool(names)
        self.is_cached = all(name in cached for name in names)
        self.found = [None] * size

    def values(self, Py_ssize_t position):
        return self.found[position]

    cdef bint needs_body(self, const Message* message) noexcept nogil:
        return self.has_names and not (self.is_cached and message.cached_size)

    cdef int look(self, Py_ssize_t position, const Message* message, const unsigned char* thread_id) except -1:
        cdef list values = [None] * len(self.names)
        if not self.has_names:
            pass
        elif self.is_cached and message.cached_size:
            self.read(message.cached, message.cached_size, values)
        else:
            self.read(message.prefix, message.prefix_size, values)
            self.read(message.body + message.skip, message.header_size - message.skip, values)
        self.found[position] = (PyBytes_FromStringAndSize(<const char*>thread_id, ID_OCTETS), values)
        return 0

    cdef int read(self, const unsigned char* p, Py_ssize_t n, list values) except -1:
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t name_at = 0, name_end = 0, value_at = 0, value_end = 0
        cdef Py_ssize_t k
        cdef bytes name
        n = min(n, MAX_HEADER_OCTETS)
        while True:
            i = next_field(p, i, n, &name_at, &name_end, &value_at, &value_end)
            if i < 0:
                return 0
            for k in range(len(self.names)):
                name = <bytes>self.names[k]
                if values[k] is None and is_word(
                    p + name_at, name_end - name_at, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)
                ):
                    values[k] = PyBytes_FromStringAndSize(<const char*>p + value_at, value_end - value_at)

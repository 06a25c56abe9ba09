from libc.stdint cimport uint64_t

from rusmes._core.emailrow cimport EmailPlaces
from rusmes._core.textpipe cimport TextPipe


# A message where it lies: the fields that the store caches (none: there are too many), what the pipeline put before it, and its
# bytes, of which `skip` are replaced by that.
cdef struct Message:
    const unsigned char* cached
    Py_ssize_t cached_size
    const unsigned char* prefix
    Py_ssize_t prefix_size
    const unsigned char* body
    Py_ssize_t size
    Py_ssize_t skip
    Py_ssize_t header_size
    bint has_body              # `body` is known


# Something that looks at emails of the store, many at once.
cdef class EmailReader:
    cdef readonly Py_ssize_t size
    cdef bint needs_body(self, const Message* message) noexcept nogil
    cdef int look(self, Py_ssize_t position, const Message* message, const unsigned char* thread_id) except -1
    cdef int find_bodies(
        self, Py_ssize_t first, Py_ssize_t count, EmailPlaces* places, Message* messages, object get_blobs, object open_file
    ) except -1
    cdef int look_in_files(
        self, Py_ssize_t first, list in_files, EmailPlaces* places, Message* messages, object open_file
    ) except -1
    cdef int look_at_all(self, Py_ssize_t first, Py_ssize_t count, const Message* messages, const EmailPlaces* places) except -1


# One thing to look for.
cdef struct Term:
    int kind
    const unsigned char* name
    Py_ssize_t name_size
    bint is_cached


# What a part says of itself.
cdef struct PartHead:
    bint has_type
    bint has_encoding
    int kind
    bint is_digest
    int encoding
    unsigned char boundary[200]
    Py_ssize_t boundary_size
    unsigned char charset[40]
    Py_ssize_t charset_size


cdef class TextScan(EmailReader):
    cdef list patterns
    cdef list names
    cdef Term terms[64]
    cdef int count
    cdef TextPipe pipe
    cdef bint begins[256]      # the name of a field that is looked for begins with this octet
    cdef uint64_t header_terms
    cdef uint64_t cached_terms # of the header, that the cache answers
    cdef uint64_t text_terms   # of header and body
    cdef uint64_t body_terms
    cdef uint64_t always       # empty texts, which are everywhere
    cdef uint64_t todo         # what is still looked for in this message
    cdef int part_count
    cdef list found_at

    cdef uint64_t scan(self, const Message* message) noexcept nogil
    cdef void take_fields(self, const unsigned char* p, Py_ssize_t n, uint64_t terms) noexcept nogil
    cdef void take_header(self, const unsigned char* p, Py_ssize_t n, uint64_t terms) noexcept nogil
    cdef void read_head(self, const unsigned char* p, Py_ssize_t n, PartHead* head) noexcept nogil
    cdef void read_type(self, const unsigned char* p, Py_ssize_t n, PartHead* head) noexcept nogil
    cdef void read_parameters(self, const unsigned char* p, Py_ssize_t n, PartHead* head) noexcept nogil
    cdef void take_part(self, const unsigned char* p, Py_ssize_t start, Py_ssize_t end, int depth, PartHead* head) noexcept nogil
    cdef void take_whole(
        self, const unsigned char* p, Py_ssize_t start, Py_ssize_t end, int depth, bint is_digest, bint is_message
    ) noexcept nogil
    cdef void take_parts(self, const unsigned char* p, Py_ssize_t start, Py_ssize_t end, int depth, PartHead* head) noexcept nogil


cdef class FieldReader(EmailReader):
    cdef tuple names
    cdef bint has_names
    cdef bint is_cached
    cdef list found

    cdef int read(self, const unsigned char* p, Py_ssize_t n, list values) except -1

"""Layout of the pipeline's dispatch loop."""

from rusmes._core.counters cimport Histogram, Metrics

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* out)
    enum: CLOCK_MONOTONIC

# What a matcher answers

cdef class Everyone:
    pass


# Matchers worth C: the loop calls `decide` without building an argument list

cdef class FastMatcher:
    cdef object decide(self, mail)


# What is built once

cdef class Step:
    cdef readonly str label
    cdef readonly str state
    cdef readonly int index
    cdef readonly str on_match_exception
    cdef readonly str on_mailet_exception
    cdef readonly bint after_accept
    cdef readonly double timeout
    cdef readonly object mailet
    cdef readonly object matcher
    cdef FastMatcher fast
    cdef object match
    cdef object service
    cdef Metrics metrics
    cdef Histogram histogram
    cdef void took(self, long long ns) noexcept


# What one run needs

cdef class _Frame:
    cdef list steps
    cdef Py_ssize_t at
    cdef list todo
    cdef list done
    cdef _Frame below

cdef class Journey:
    cdef dict chains
    cdef object settlement
    cdef object go_on
    cdef object decision_type
    cdef bint in_session
    cdef long long deadline_ns
    cdef _Frame top
    cdef _Frame waiting
    cdef readonly Step step
    cdef readonly object mail
    cdef object rest
    cdef object before
    cdef Py_ssize_t before_count
    cdef object select(self, _Frame frame, Step step, mail)
    cdef int conclude(self, _Frame frame, Step step, mail, decision) except -1
    cdef int failed(self, _Frame frame, Step step, mail, error) except -1
    cdef int follow(self, _Frame frame, outcome) except -1
    cdef int next_step(self, _Frame frame) except -1


"""Compile rusmes/_core.  Everything declarative lives in pyproject.toml.

RUSMES_BUILD=release   (default) -O3, no tracing
RUSMES_BUILD=trace     line tracing for coverage.py (slow)
RUSMES_BUILD=sanitize  ASan + UBSan, -O1 -g
"""
import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

FLAGS = {
    "release": (["-O3", "-g1", "-fno-omit-frame-pointer"], [], []),
    "trace": (["-O0", "-g"], [], [("CYTHON_TRACE_NOGIL", "1"),
                                  ("CYTHON_USE_SYS_MONITORING", "0")]),
    "sanitize": (["-O1", "-g", "-fno-omit-frame-pointer",
                  "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
                 ["-fsanitize=address,undefined"], []),
}
mode = os.environ.get("RUSMES_BUILD", "release")
cflags, ldflags, macros = FLAGS[mode]

extensions = [
    Extension(".".join(p.with_suffix("").parts), [str(p)],
              extra_compile_args=[*cflags, "-Wall", "-Wextra", "-Wno-unused-parameter"],
              extra_link_args=ldflags, define_macros=macros)
    for p in sorted(Path("rusmes/_core").glob("*.pyx"))
]

setup(ext_modules=cythonize(
    extensions,
    build_dir=f"build/cython-{mode}" if mode != "trace" else None,
    annotate=bool(os.environ.get("RUSMES_ANNOTATE")),
    nthreads=os.cpu_count() or 1,
    compiler_directives={
        "language_level": 3,
        "freethreading_compatible": True,
        "auto_pickle": False,
        "autotestdict": False,
        "linetrace": mode == "trace",
        "warn.deprecated.DEF": True,
    },
))

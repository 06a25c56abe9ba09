"""The operator's words, as frozen typed values.

What it is: the schema of `rusmes.toml`, its units, reading and checking it (every problem of a file at once, each with its
line), and the comparison of two configurations for a reload.
What it is not: a global; anything that opens a socket, builds a mailet or loads a certificate. Those who need a setting
are given the value.

Formats: TOML 1.0; networks as in RFC 4632 and RFC 4291 §2.3.

Map: `schema` the keys and their defaults; `units` durations, sizes, networks, secrets; `convert` raw values into the schema;
`positions` where a key stands in the text; `environment` RUSMES_* variables; `predecessor` keys of RusMES 0.1; `checks`
what holds between keys; `load` all of it in order; `diff` what a reload may change.
"""

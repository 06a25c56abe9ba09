"""The operator's door: `rusmes`.

What it is: commands that talk to a running server through its control socket, or open the stores of a stopped one. Every
command prints tables for people and, with `--json`, one JSON document for programs; every refusal names the place and the
way out.
What it is not: a second implementation of anything. It calls the same classes as the server.

Exit status: 0 done; 1 the server, the store or the network failed; 2 what was typed or configured is wrong; 3 `status` found no
running server.

Map: `entry` the root command and the last line of defence; `context` what commands share; `output` tables and JSON; `control`
the control socket; `stores` opening a stopped server's stores; `accounts` user and mailbox; `domains` domain and alias; `edit`
changes to the configuration file that keep its comments; `queue` looking at it, `queue_steering` changing it, `queue_filters`
selectors, `queue_lines` how it looks; `sendmail` (with `message_text` and `sysexits`) and `postqueue` for programs that know
Postfix; `importing` and `postfix_maps` its maps; `store`; `status`; `check` check-config; `setup` init;
`installation` what init makes; `keys` and `dkim` signing keys; `dns_records` what to publish; `quickstart` the server of
`make run`.
"""

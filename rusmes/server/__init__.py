"""The house: the only place that knows everything.

What it is: processes (a supervisor and its workers), signals, sockets, privileges, reload, and the assembly of all rooms into a
worker. What it is not: any decision about mail or protocol; those are made below, by what is put together here.

systemd's notification protocol (sd_notify(3), sd_watchdog_enabled(3)); LSB exit codes of daemons only in so far as
0 is done, 1 is a failure, 2 is a wrong command line or configuration.

Map: `entry` the program; `supervisor` the first process; `fleet` what it knows of its workers; `control` what the operator may
ask; `worker` one of the others; `build` what a worker is made of; `channel` how they talk; `check` a configuration, all of it;
`reload` a changed one; `sockets` binding; `places` directories, locks, the PID file; `privileges` who we are; `logs` where
lines go; `readiness` telling the init system; `queues` the operations on the queue for the whole server, `steering` one
worker's part of them; `maildrop` takes in what local programs left.

Order at start, and why: read and check everything (an error costs nothing yet), take the lock of the data directory, bind all
sockets (ports below 1024 need root), load certificates (keys may be root's), drop privileges, fork the workers (before any
loop or thread exists here), open the loop. Later forks happen between two runs of the loop, never inside one.
"""

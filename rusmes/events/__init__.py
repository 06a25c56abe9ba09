"""The event log: what happened to mail, as JSON lines apart from delivery, and the way of those lines to others.

It is a record for programs and for `rusmes why`: one line for each reception, each attempt and each change of state. It is
not the server's log (`rusmes.log`, which tells an operator how the server is), and nothing is ever decided by it: a line that
is lost loses no mail.

    api       the contract the other engines see: what there is to say, and a log that hears nothing
    segments  files: names, indexes, reading by offset
    writer    lines made on the way of a mail, written by a thread
    keeper    complete files packed and indexed, old ones removed
    history   everything about a message or a recipient
    tail      reading on, for consumers
    shipping  a task for each consumer; `consumer` is what one has to do
    webhook   a consumer: POST, signed
    copies    a consumer: a file of JSON or CSV
"""

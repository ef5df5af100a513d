"""Questions to a database, answered by the process that has it: this one, or the one that runs it.

    command ──ask(Question)──> Owner ──┬─ the file is free: opened here ────────────┬──> answers.answer
                                       └─ NAME.sock answers: its process is asked ──┘

`questions` says what can be asked and what comes back, `answers` holds the one answer to each, `owner` finds
the process, `app` is the other end of the socket. Questions and answers travel as MessagePack, which keeps
times, tuples and floats as they are; rows of a SELECT as an Arrow stream.
"""

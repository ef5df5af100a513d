"""A client that repeats itself is heard once in a while, with a count of what was held back."""

import logging

from stream.kafka.logs import OncePerWhile, limit_client_logs


def record(text, *arguments):
    return logging.LogRecord("aiokafka.conn", logging.ERROR, "", 0, text, arguments, None)


def test_a_message_passes_once_and_says_later_how_many_did_not():
    limit = OncePerWhile(every_s=600)
    assert limit.filter(record("node %s is away", 1))
    assert not limit.filter(record("node %s is away", 2))
    assert limit.filter(record("another message"))

    at_once = OncePerWhile(every_s=0)
    assert at_once.filter(record("away"))
    again = record("away")
    assert at_once.filter(again)
    assert again.getMessage() == "away"


def test_what_was_held_back_is_counted():
    limit = OncePerWhile(every_s=600)
    for _ in range(4):
        limit.filter(record("node %s is away", 1))
    limit._every_s = 0
    later = record("node %s is away", 5)
    assert limit.filter(later)
    assert later.getMessage() == "node 5 is away (3 more like it since)"


def test_the_limit_is_put_on_every_client_that_is_loaded():
    logger = logging.getLogger("aiokafka.some.module")
    limit_client_logs()
    limit_client_logs()
    assert sum(isinstance(found, OncePerWhile) for found in logger.filters) == 1
    assert not logging.getLogger("stream").filters

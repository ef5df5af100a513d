"""Requests stay out of the log, whatever level it has."""

import logging

from stream.kafka.logs import keep_requests_out_of_logs


def test_lines_that_hold_requests_are_dropped_and_what_goes_wrong_is_not(caplog):
    keep_requests_out_of_logs()
    keep_requests_out_of_logs()
    logger = logging.getLogger("kafka.net.connection")
    assert len(logger.filters) == 1
    with caplog.at_level(logging.DEBUG):
        logger.debug("request with %s", "a password")
        logger.warning("the broker is away")
    assert [record.message for record in caplog.records] == ["the broker is away"]

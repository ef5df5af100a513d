"""Settings of the live log refuse what no client can use and repeat no secret."""

import pytest

from stream.kafka.config import KafkaConfig

SECRET = "hunter-2-secret"


def test_no_secret_is_in_the_representation():
    config = KafkaConfig(sasl_password=SECRET, ssl_key_password=SECRET)
    assert SECRET not in repr(config)
    assert SECRET not in str(config)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bootstrap_servers": " "},
        {"shard": 2, "shards": 2},
        {"shard": -1},
        {"security_protocol": "SASL_SSL"},
        {"sasl_password": SECRET, "sasl_password_file": "also.txt"},
        {"ssl_certfile": "client.pem"},
        {"request_timeout_ms": 0},
        {"slates_topic": ""},
    ],
    ids=",".join,
)
def test_what_no_client_can_use_is_refused_without_repeating_a_secret(wrong):
    with pytest.raises(ValueError, match="|".join([*wrong, "SASL_SSL"])) as caught:
        KafkaConfig(**wrong)
    assert SECRET not in str(caught.value)


def test_every_partition_has_one_owner():
    shards = [KafkaConfig(shard=shard, shards=3) for shard in range(3)]
    owners = [[config.shard for config in shards if config.owns(part)] for part in range(7)]
    assert owners == [[0], [1], [2], [0], [1], [2], [0]]

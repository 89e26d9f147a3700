"""The bell: a message by name on the right queue, and no fault when the broker is away."""

import json
import socket
import sys
import time
from base64 import b64decode
from queue import Empty
from typing import Any

import pytest
import redis
from redis.exceptions import RedisError

from hilum import queue
from hilum.queue import CLASSIFY, DELIVER, PREPARE, REPORT, depths, ring
from tests.conftest import SettingsChange
from tests.peers.broker import Broker
from tests.peers.helpers import free_port, wait_for

LONGEST_PAUSE_S = 2


@pytest.fixture
def broker(valkey: Broker, hilum_env: SettingsChange) -> Broker:
    hilum_env(broker_url=valkey.url)
    return valkey


def only_message(broker: Broker, name: str) -> dict[str, Any]:
    [message] = broker.messages(name)
    return dict(json.loads(message))


def test_a_bell_is_a_json_message_with_the_tasks_name_and_the_study(broker: Broker) -> None:
    assert ring(PREPARE, "1.2.3") is True
    message = only_message(broker, "prepare")
    assert message["headers"]["task"] == "worker.prepare"
    arguments, _, _ = json.loads(b64decode(message["body"]))
    assert arguments == ["1.2.3"]
    assert message["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("kind", "urgent", "name"),
    [
        (PREPARE, True, "prepare.urgent"),
        (CLASSIFY, False, "classify"),
        (CLASSIFY, True, "classify.urgent"),
        (REPORT, True, "deliver"),
        (DELIVER, False, "deliver"),
    ],
)
def test_each_kind_of_work_has_its_queue(broker: Broker, kind: str, urgent: bool, name: str) -> None:
    ring(kind, "1.2.3", urgent=urgent)
    assert only_message(broker, name)["headers"]["task"] == kind


def test_a_bell_may_ring_later(broker: Broker) -> None:
    ring(PREPARE, "1.2.3", countdown_s=60)
    assert only_message(broker, "prepare")["headers"]["eta"] is not None


def test_the_depth_of_each_queue_is_known(broker: Broker) -> None:
    ring(PREPARE, "1.2.3")
    ring(PREPARE, "1.2.4")
    found = depths()
    assert found["prepare"] == 2
    assert sum(found.values()) == 2


def test_a_broker_that_is_away_is_no_fault_and_costs_little_time(hilum_env: SettingsChange) -> None:
    hilum_env(broker_url=f"redis://127.0.0.1:{free_port()}/0")
    began = time.monotonic()
    assert ring(PREPARE, "1.2.3") is False
    assert time.monotonic() - began < LONGEST_PAUSE_S


def test_a_broker_that_comes_back_is_used_again(broker: Broker) -> None:
    assert ring(PREPARE, "1.2.3")
    broker.stop()
    assert ring(PREPARE, "1.2.4") is False
    broker.start()
    wait_for(lambda: ring(PREPARE, "1.2.5"), 10, "a bell after the broker's return")
    assert len(broker.messages("prepare")) == 2


def test_only_json_is_accepted_and_no_results_are_kept(hilum_env: SettingsChange) -> None:
    hilum_env()
    assert queue.app.conf.accept_content == ["json"]
    assert queue.app.conf.task_ignore_result is True
    assert queue.app.conf.result_backend is None


def test_a_worker_whose_acknowledgement_gets_lost_takes_the_next_message_all_the_same(broker: Broker) -> None:
    assert ring(PREPARE, "1.2.3")
    with queue.app.connection_for_read() as connection, connection.channel() as channel:
        channel.basic_qos(0, 1, False)
        message = channel.basic_get("prepare")
        assert not channel.qos.can_consume()
        broker.stop()
        with pytest.raises(RedisError):
            message.ack()
        assert channel.qos.can_consume()
        broker.start()


def test_a_dead_connection_in_the_pool_costs_no_bell(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ring(PREPARE, "1.2.3")
    # redis-py 8.1 reads ETIMEDOUT as "nothing to read", so that a connection that has ended counts as ready
    monkeypatch.setattr("redis.connection.AbstractConnection.can_read", lambda *_, **__: False)
    with redis.Redis.from_url(broker.url) as client:
        client.client_kill_filter(_type="normal", skipme=True)
    assert ring(PREPARE, "1.2.4")


@pytest.mark.timeout(30)
def test_a_worker_does_not_wait_for_a_control_message_that_is_not_there(broker: Broker) -> None:
    with queue.app.connection_for_read() as connection, connection.channel() as channel:
        channel.subclient.psubscribe("control")
        assert channel.subclient.parse_response()[0] == b"psubscribe"
        with pytest.raises(Empty):
            channel._receive_one(channel.subclient)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such option")
def test_a_connection_to_a_broker_that_fell_silent_ends_by_itself(broker: Broker) -> None:
    with queue.app.connection_for_read() as connection, connection.channel() as channel:
        to_broker = channel.pool.get_connection()
        assert to_broker._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert 0 < to_broker._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 15_000
        channel.pool.release(to_broker)

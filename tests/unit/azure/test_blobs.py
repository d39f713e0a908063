"""Blocks of a large file: several at once, and no more of them after a cut."""

import base64
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from mlflow_phi3.azure import blobs

BLOCKS = 64


class Blob:
    """Takes blocks as azure-storage's client does, when ``gate`` lets their numbers through."""

    def __init__(self, gate, *before):
        self._gate, self._before = gate, before
        self.staged, self.committed = {}, []

    def get_block_list(self, _which):
        return [], self._before

    def stage_block(self, block_id, content, *, length):
        self._gate(int(base64.b64decode(block_id)))
        self.staged[block_id] = content
        assert len(content) == length

    def commit_block_list(self, listed):
        self.committed = [block.id for block in listed]


@pytest.fixture
def large(tmp_path, monkeypatch):
    monkeypatch.setattr(blobs, "BLOCK_BYTES", 4)
    path = tmp_path / "weights.bin"
    path.write_bytes(b"".join(number.to_bytes(4) for number in range(BLOCKS)))
    return path


def test_blocks_go_several_at_once_and_are_put_together_in_order(large):
    together = threading.Barrier(8)  # lets nobody through before eight are there
    blob, arrived = Blob(lambda _: together.wait(30)), []
    with ThreadPoolExecutor(8) as pool:
        blobs._send_large(blob, large, pool, arrived.append)
    assert sum(arrived) == large.stat().st_size
    assert b"".join(blob.staged[name] for name in blob.committed) == large.read_bytes()


def test_of_the_blocks_that_are_there_only_whole_ones_are_not_sent_again(large):
    whole, other = (base64.b64encode(f"{number:08}".encode()).decode() for number in (0, 1))
    there = (SimpleNamespace(id=whole, size=4), SimpleNamespace(id=other, size=3))
    blob, arrived = Blob(lambda _: None, *there), []
    with ThreadPoolExecutor(8) as pool:
        blobs._send_large(blob, large, pool, arrived.append)
    assert arrived[0] == 4
    assert sum(arrived) == large.stat().st_size
    assert whole not in blob.staged
    assert blob.staged[other] == (1).to_bytes(4)
    assert len(blob.committed) == BLOCKS


def test_a_cut_leaves_what_has_not_begun(large):
    pools = []

    def gate(number):  # the first eight pass; the next ones are under way when the cut comes
        while number >= 8 and not pools[0]._shutdown:
            time.sleep(0.01)

    def cut(size_bytes):
        if size_bytes:
            raise KeyboardInterrupt

    blob = Blob(gate)

    def send():
        with ThreadPoolExecutor(8) as pool:
            pools.append(pool)
            blobs._send_large(blob, large, pool, cut)

    with pytest.raises(KeyboardInterrupt):
        send()
    assert len(blob.staged) <= 16
    assert blob.committed == []

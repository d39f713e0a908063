"""Blocks of a large file: several at once, and no more of them after a cut."""

import base64
import threading
import time

import pytest

from mlflow_phi3.azure import blobs

BLOCKS = 64


class Blob:
    """Takes blocks as azure-storage's client does, when ``gate`` lets their numbers through."""

    def __init__(self, gate):
        self._gate = gate
        self.staged, self.committed = {}, []

    def get_block_list(self, _which):
        return [], []

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
    with blobs.workers() as pool:
        blobs._send_large(blob, large, pool, arrived.append)
    assert sum(arrived) == large.stat().st_size
    assert b"".join(blob.staged[name] for name in blob.committed) == large.read_bytes()


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
        with blobs.workers() as pool:
            pools.append(pool)
            blobs._send_large(blob, large, pool, cut)

    with pytest.raises(KeyboardInterrupt):
        send()
    assert len(blob.staged) <= 16
    assert blob.committed == []

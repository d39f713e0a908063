"""Files of the data collector, out of a container that lies in memory."""

import datetime as dt
from contextlib import contextmanager
from io import BytesIO
from types import SimpleNamespace

import pytest

from mlflow_phi3.azure import collected

START = dt.datetime(2026, 2, 3, 5, tzinfo=dt.UTC)
PLACE = "modelDataCollector/chat/blue/request/2026/02/03"


class Container:
    def __init__(self, files):
        self._files, self.closed = files, False

    def list_blobs(self, *, name_starts_with):
        names = [name for name in self._files if name.startswith(name_starts_with)]
        return [SimpleNamespace(name=name) for name in names]

    def download_blob(self, name):
        return SimpleNamespace(readall=BytesIO(self._files[name].encode()).read)

    def close(self):
        self.closed = True


class Project:
    @contextmanager
    def session(self, _purpose):
        yield None


@pytest.fixture
def container(monkeypatch):
    found = Container(
        {
            f"{PLACE}/04/a.jsonl": "{}\n",
            f"{PLACE}/05/a.jsonl": '{"data": "one\u2028two\u0085three"}\r\n\n{}\n',
            f"{PLACE}/a.jsonl": "{}\n",  # rolled by the day
            "modelDataCollector/chat/green/request/2026/02/03/05/a.jsonl": "{}\n",
        }
    )
    monkeypatch.setattr(collected, "open_container", lambda _ml: found)
    return found


def test_lines_of_a_deployment_since_an_hour(container):
    found = list(collected.read_collected(Project(), "chat", "blue", START))
    assert found == [
        (f"{PLACE}/05/a.jsonl:1", '{"data": "one\u2028two\u0085three"}\r'),
        (f"{PLACE}/05/a.jsonl:3", "{}"),
        (f"{PLACE}/a.jsonl:1", "{}"),
    ]
    assert container.closed
    assert len(list(collected.read_collected(Project(), "chat", "", START))) == 4

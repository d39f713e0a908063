import datetime as dt
import json

from mlflow_phi3.config.monitor import MonitorConfig
from mlflow_phi3.data.jsonl import read_lines
from mlflow_phi3.monitoring.calls import read_calls, to_log
from mlflow_phi3.workflows.monitor import _tariff, _trained

AT = dt.datetime(2026, 2, 3, tzinfo=dt.UTC)


def test_a_log_holds_whatever_users_write(tmp_path):
    said = "first\u2028second\u0085third\nfourth"
    ask = {"messages": [{"role": "user", "content": said}]}
    path = tmp_path / "calls.jsonl"
    line = to_log(ask, {"choices": []}, at=AT, status=200, latency_ms=5)
    path.write_text(f"\ufeff{line}\n\n{line}\n", encoding="utf-8")
    lines = list(read_lines(path, code="PHI3-D093", fix="check --log"))
    assert [place for place, _ in lines] == [f"{path}:1", f"{path}:3"]
    assert [call.prompts for call in read_calls(lines)] == [(said,)] * 2


def test_rows_that_were_not_trained_on_are_no_obstacle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = [{"role": "user", "content": f"What is {n} times {n}?"} for n in range(40)]
    answered = [
        {"messages": [turn, {"role": "assistant", "content": f"{n * n}."}]}
        for n, turn in enumerate(asked)
    ]
    rows = [*answered, {"messages": [{"role": "user", "content": "never answered"}]}]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = _trained(MonitorConfig(endpoint="chat", train_data=str(path)))
    assert 20 < len(found) <= 40
    assert set(found) <= {turn["content"] for turn in asked}


def test_a_cost_of_tokens_alone_says_that_hosting_is_left_out():
    whole = MonitorConfig(endpoint="chat", price_model="Phi-4-mini-instruct", usd_per_hour=0.74)
    left_out = "price: hosting by the hour not given (--usd-per-hour): cost is of tokens alone"
    for usd, said in ((0.0, True), (0.74, False)):
        _, told = _tariff(whole.model_copy(update={"usd_per_hour": usd}))
        assert (left_out in told) == said
    assert _tariff(MonitorConfig(endpoint="chat"))[1] == ()  # nothing is known, and told so

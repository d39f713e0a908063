"""The ledger of an endpoint in its tags."""

from mlflow_phi3.deployment.ledger import Entry, read_ledger, with_entries


def test_the_ledger_keeps_the_latest_and_fits_into_tags():
    entries = [
        Entry(
            f"2026-01-{day:02}T00:00:00+00:00",
            {"blue": 90, "green": 10},
            {"green": 100},
            "a-rather-long-model-name" * 3,
            "123",
            "124",
            pending=True,
        )
        for day in range(1, 10)
    ]
    tags = with_entries({"team": "x"}, entries)
    assert read_ledger(tags) == entries[-6:]
    assert max(map(len, tags.values())) <= 256
    assert with_entries(tags, []) == {"team": "x"}


def test_a_long_entry_goes_on_in_a_second_tag():
    names = ["a" * 32, "b" * 32, "c" * 32]
    traffic = {names[0]: 30, names[1]: 30, names[2]: 40}
    long = Entry("2026-01-01", traffic, {names[0]: 100}, held=dict.fromkeys(names, "1a2b3c4d"))
    entries = [long, Entry("2026-01-02", {"blue": 100}, {"green": 100}), long]
    tags = with_entries({}, entries)
    assert read_ledger(tags) == entries
    assert read_ledger(dict(reversed(tags.items()))) == entries  # Azure keeps no order of tags
    assert max(map(len, tags.values())) <= 256

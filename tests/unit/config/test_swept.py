import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_phi3.config.hyperparameters import Hyperparameters
from mlflow_phi3.config.parse import narrow, parse_values
from mlflow_phi3.config.sweep import SweepConfig
from mlflow_phi3.config.swept import Auto, Choices, Element, Interval, Pin, values_of
from mlflow_phi3.errors import UsageError


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("epochs", "3", Pin(3)),
        ("epochs", "1..4", Interval(1, 4)),
        ("epochs", "3..3", Pin(3)),
        ("learning_rate", "1e-5..5e-4", Interval(1e-5, 5e-4, log=True)),
        ("learning_rate", "auto", Auto()),
        ("batch_size_multiplier", "1, 2,4", Choices((1, 2, 4))),
        ("scheduler", "cosine,wsd", Choices(("cosine", "wsd"))),
        ("dora", "true", Pin(value=True)),
        ("lora_dropout", "0..0.2", Interval(0.0, 0.2)),
    ],
)
def test_the_syntax_pins_ranges_and_chooses(name, text, value):
    assert getattr(parse_values(Hyperparameters, {name: text}), name) == value


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("epochs", "abc", "'abc' is not a whole number"),
        ("epochs", "0", "0 is less than 1"),
        ("epochs", "1.5", "'1.5' is not a whole number"),
        ("epochs", "4..1", "'4..1' is reversed"),
        ("epochs", "2,2", "2 is listed twice"),
        ("epochs", "auto", "'auto' is not a whole number"),
        ("epochs", "1..", "no range"),
        ("learning_rate", "0", "0 is not greater than 0"),
        ("learning_rate", "1e-5...5e-4", "no range"),
        ("learning_rate", "..5e-4", "no range"),
        ("learning_rate", "nan", "'nan' is not a number"),
        ("learning_rate", "1e-5..7", "7 is not less than 1"),
        ("lora_dropout", "1", "1 is not less than 1"),
        ("scheduler", "cosin", "'cosin' is not one of"),
        ("dora", "perhaps", "neither true nor false"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_value(name, text, told):
    with pytest.raises(UsageError) as caught:
        parse_values(Hyperparameters, {name: text})
    assert caught.value.where == name
    assert told in str(caught.value)


@given(
    st.one_of(
        st.integers(1, 10**6).map(Pin),
        st.tuples(st.integers(1, 99), st.integers(100, 999)).map(lambda ends: Interval(*ends)),
        st.lists(st.integers(1, 99), min_size=2, max_size=5, unique=True).map(
            lambda several: Choices(tuple(several))
        ),
    )
)
def test_text_is_read_back_as_it_was_meant(value):
    assert Element(int, least=1).parse(str(value)) == value


@given(st.floats(1e-9, 0.5), st.floats(1e-9, 0.5))
def test_ranges_of_reals_are_read_back_to_the_last_bit(one, other):
    element = Element(float, above=0, log=True)
    value = element.parse(f"{min(one, other)!r}..{max(one, other)!r}")
    assert element.parse(str(value)) == value


def test_a_configuration_survives_its_own_dump():
    config = parse_values(SweepConfig, {"epochs": "1..4", "lora_r": "8,16", "n_trials": "3"})
    assert parse_values(SweepConfig, config.model_dump(mode="json")) == config
    assert narrow(config, Hyperparameters).epochs == Interval(1, 4)


def test_bounds_hold_for_values_made_in_code_too():
    with pytest.raises(ValueError, match="less than 1"):
        Hyperparameters(epochs=Pin(0))
    with pytest.raises(ValueError, match="not possible here"):
        Hyperparameters(epochs=Auto())


def test_values_are_counted_where_they_can_be():
    assert values_of(Interval(1, 3)) == (1, 2, 3)
    assert values_of(Choices(("a", "b"))) == ("a", "b")
    assert values_of(Interval(0.1, 0.2)) is None


def test_a_file_gives_the_space_and_the_command_line_wins(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("learning_rate: 1e-4..1e-3\nlora_r: [8, 16]\nepochs: 5\n")
    config = parse_values(SweepConfig, {"space": str(path), "epochs": "2"})
    assert config.learning_rate == Interval(1e-4, 1e-3, log=True)
    assert config.lora_r == Choices((8, 16))
    assert config.epochs == Pin(2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epoch: 3", "unknown parameters: epoch"),
        ("- 1", "holds no mapping"),
        ("epochs: a: b", "is not YAML"),
        (b"epochs: \xff", "is not YAML"),
        ("lora_r: 8\nepochs: 2\nlora_r: [16]", "gives lora_r twice"),
        ("optimizer:", "gives optimizer no value"),
        ("epochs: {low: 1, high: 3}", "gives epochs no value"),
        (None, "no file"),
    ],
)
def test_a_bad_space_file_is_refused(tmp_path, text, told):
    path = tmp_path / "space.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=rf"PHI3-U005 space: [^\0]*{told}[^\0]*\. Fix: "):
        parse_values(SweepConfig, {"space": str(path)})


def test_a_space_is_read_once(tmp_path):
    """What was kept of a sweep says it all, also where the file is not, or is another by now."""
    path = tmp_path / "space.yaml"
    path.write_text("lora_r: [8, 16]\n")
    config = parse_values(SweepConfig, {"space": str(path)})
    path.write_text("rank: 4\n")
    assert narrow(config, SweepConfig) == config
    path.unlink()
    assert parse_values(SweepConfig, config.model_dump(mode="json")) == config

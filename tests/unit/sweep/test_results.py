from mlflow_phi3.sweep.results import show_value


def test_small_rates_are_shown_in_one_notation():
    assert [show_value(rate) for rate in (1.14e-4, 8.7e-5, 0.25, 32.0, 2, "linear")] == [
        "1.14e-04",
        "8.70e-05",
        "0.25",
        "32",
        "2",
        "linear",
    ]

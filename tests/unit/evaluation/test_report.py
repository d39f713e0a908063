import math
import re
from html.parser import HTMLParser

import pytest

from mlflow_phi3.data.messages import Message
from mlflow_phi3.evaluation.compare import Comparison
from mlflow_phi3.evaluation.report import render_report
from mlflow_phi3.evaluation.runner import Evaluation, Prediction
from mlflow_phi3.training.scoring import ExampleScore


def evaluation(losses, answer):
    said = Prediction("t:1", (Message("user", "a <b>?"),), "red & blue", answer, 0.0, 0.25, 0.5)
    return Evaluation(
        {"loss": sum(losses) / len(losses), "f1": 0.25, "supervised_tokens": 1234.0},
        tuple(ExampleScore(f"t:{n}", 7 * loss, 7, 3) for n, loss in enumerate(losses)),
        (said,),
    )


BASE, TUNED = evaluation([3.0, 2.0, 2.5], "x"), evaluation([1.0, 1.75, 1.5], "<script>y</script>")


def page(low=-1.5, high=-0.5):
    return render_report(BASE, TUNED, Comparison((low + high) / 2, low, high, 0.95, 3))


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(-2, -1, "better beyond noise"), (-1, 1, "may be noise"), (1, 2, "worse beyond noise")],
)
def test_the_verdict_is_in_words(low, high, told):
    assert told in page(low, high)


def test_texts_of_the_data_are_escaped():
    found = page()
    assert "<script>" not in found
    assert "&lt;script&gt;y" in found
    assert "a &lt;b&gt;?" in found
    assert "red &amp; blue" in found


def test_the_worst_rows_come_first():
    table = page().split("Rows that hurt most")[1].split("</table>")[0]
    assert re.findall(r"<code>(t:\d)</code>", table) == ["t:1", "t:2", "t:0"]


def test_less_loss_is_a_gain():
    (row,) = re.findall(r"<tr><td><code>loss.*?</tr>", page())
    assert "better" in row
    assert "-1.0833" in row


def test_it_is_one_well_formed_page_without_anything_from_elsewhere():
    opened = []

    class Check(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert not {"src", "href"} & {name for name, _ in attrs}
            if tag != "meta":
                opened.append(tag)

        def handle_startendtag(self, tag, attrs):
            assert not {"src", "href"} & {name for name, _ in attrs}

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Check().feed(page())
    assert not opened


def test_a_loss_that_is_no_number_is_still_drawn():
    assert "may be noise" in page(math.nan, math.nan)


def test_an_interval_without_ends_is_drawn_from_edge_to_edge():
    alone = Comparison(-0.5, -math.inf, math.inf, 0.95, 1)
    drawn = render_report(BASE, TUNED, alone)
    assert "may be noise" in drawn
    assert "interval -inf to +inf" in drawn
    assert '<line x1="60" x2="580" y1="23"' in drawn

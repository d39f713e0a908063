import dataclasses
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from mlflow_phi3.data.messages import Message
from mlflow_phi3.evaluation.compare import Comparison
from mlflow_phi3.evaluation.labels import LabelMetrics, LabelPrediction, LabelReport
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


def test_nothing_is_drawn_of_a_loss_that_is_no_number():
    drawn = page(math.nan, math.nan)
    assert "cannot be compared: some loss is no number" in drawn
    assert "<svg" not in drawn


def test_one_row_has_no_interval():
    drawn = render_report(BASE, TUNED, Comparison(-0.5, -math.inf, math.inf, 0.95, 1))
    assert "1 test row cannot tell the two apart: test loss -0.5000 nats per token." in drawn
    assert "inf" not in drawn.split("</svg>")[0].split("<body>")[1]
    assert "<circle" in drawn
    assert 'stroke-width="4"' not in drawn


@pytest.mark.parametrize(
    ("low", "high", "colour", "style"),
    [(-2, -1, "good", " better"), (-2, 1, "soft", " "), (1, 2, "bad", " worse-number")],
)
def test_the_colours_agree_with_the_verdict(low, high, colour, style):
    one, other = (BASE, TUNED) if high < 2 else (TUNED, BASE)
    drawn = render_report(one, other, Comparison((low + high) / 2, low, high, 0.95, 3))
    assert f'r="6" fill="var(--{colour})"' in drawn
    assert f'class="number{style}"' in re.findall(r"<tr><td><code>loss.*?</tr>", drawn)[0]


def test_one_is_no_plural():
    one = evaluation([1.0], "x")
    one.metrics["supervised_tokens"] = 1.0
    drawn = render_report(one, one, Comparison(0.0, -math.inf, math.inf, 0.95, 1))
    assert "1 test row, 1 supervised token, 1 generated answer." in drawn


def test_earlier_messages_stand_above_the_question():
    said = dataclasses.replace(
        TUNED.predictions[0],
        prompt=(Message("system", "<short>"), Message("user", "hi"), Message("user", "why?")),
    )
    tuned = dataclasses.replace(TUNED, predictions=(said,))
    drawn = render_report(BASE, tuned, Comparison(-1.0, -2.0, -0.5, 0.95, 3))
    (cell,) = re.findall(r"<td class=\"text\">(<details>.*?)</td>", drawn)
    assert "<summary>2 earlier messages</summary>" in cell
    assert "<p><b>system</b>&lt;short&gt;</p>" in cell
    assert cell.endswith("</details>why?")
    assert "<details>" not in page()
    assert "F1, tuned" in drawn


def test_texts_run_in_their_own_direction():
    (style,) = re.findall(r"td.text, td.text p {(.*?)}", page())
    assert "unicode-bidi: plaintext" in style
    assert "text-align: start" in style


def test_a_classifiers_worst_rows_show_their_text_and_labels():
    scores = tuple(ExampleScore(f"t:{n}", loss, 1, 0) for n, loss in enumerate([0.5, 3.0, 2.0]))
    kept = tuple(LabelPrediction(f"t:{n}", f"text <{n}>", "spam", "ham", 0.9) for n in range(2))
    confusion = np.array([[0, 3], [0, 0]])
    found = LabelReport(("spam", "ham"), LabelMetrics(0.0, 0.0, 0.0, confusion), scores, kept)
    classifier = Evaluation({"loss": 1.8, "accuracy": 0.0}, scores, labels=found)
    drawn = render_report(classifier, classifier, Comparison(0.0, -1.0, 1.0, 0.95, 3))
    table = drawn.split("Rows that hurt most")[1].split("Labels")[0]
    assert "tokens" not in table
    rows = re.findall(r"<code>(t:\d)</code></td>(.*?)</tr>", table)
    assert [place for place, _ in rows] == ["t:1", "t:2", "t:0"]
    assert '<td class="text">text &lt;1&gt;</td><td>spam</td><td>ham</td>' in rows[0][1]
    assert "not among the first 2" in rows[1][1]
    assert "Texts are kept of the first 2 rows" in table

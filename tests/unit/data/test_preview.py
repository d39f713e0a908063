"""How a conversation's tokens are set on the page."""

import re

from mlflow_phi3.data.preview import Shown, Token
from mlflow_phi3.pages import page_template


def test_each_paragraph_runs_in_its_own_direction():
    tokens = [
        Token("<|user|>", 1, learnt=False, special=True, cut=False),
        Token("كيف", 2, learnt=True, special=False, cut=False),
    ]
    shown = [Shown("t:1", "train", "shortest", tokens, 2, 1, None)]
    template = page_template("mlflow_phi3.data", "pages/preview.html.jinja")
    page = template.render(shown=shown, limit=9)
    rules = dict(re.findall(r"^(\.[a-z]+){(.*?)}", page, flags=re.MULTILINE))
    assert "unicode-bidi:plaintext" in rules[".text"]
    assert rules[".s"] == "unicode-bidi:isolate;direction:ltr"
    assert '<i class=" s" title="1">&lt;|user|&gt;</i>\n' in page
    assert '<i class="l" title="2">كيف</i>' in page
    assert "dir=" not in page

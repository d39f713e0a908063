"""Pages: nothing of the data is markup, and nothing is left out in silence."""

import jinja2
import pytest

from mlflow_phi3.pages import page_template


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "some_pages"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "page.html.jinja").write_text("<p>{{ said }} {{ 1234.5 | number }}</p>")
    monkeypatch.syspath_prepend(tmp_path)
    return folder.name


def test_what_is_put_into_a_page_is_escaped(package):
    page = page_template(package, "page.html.jinja")
    assert page.render(said="<b>") == "<p>&lt;b&gt; 1,234</p>"


def test_what_a_page_lacks_is_an_error(package):
    with pytest.raises(jinja2.UndefinedError, match="'said' is undefined"):
        page_template(package, "page.html.jinja").render()

import ast
import inspect
import pickle
import re
from pathlib import Path

import mlflow_phi3
from mlflow_phi3 import errors
from mlflow_phi3.errors import AzureError, DataError, Phi3Error


def test_a_message_says_code_place_problem_and_mend():
    error = DataError("PHI3-D014", 'last message is "user"', where="train.jsonl:17", fix="end it")

    assert str(error) == 'PHI3-D014 train.jsonl:17: last message is "user". Fix: end it.'


def test_what_ends_with_a_full_stop_gets_no_second_one():
    assert str(DataError("PHI3-D036", "not found.", fix="x")) == "PHI3-D036: not found. Fix: x."
    assert str(DataError("PHI3-D036", "cut off...", fix="x")) == "PHI3-D036: cut off.... Fix: x."


def test_an_azure_error_keeps_what_support_asks_for():
    error = AzureError("PHI3-A001", "refused", status=403, azure_code="Denied", request_id="r-1")

    assert "status 403, code Denied, request id r-1" in str(error)


def test_an_error_goes_whole_from_one_process_to_another():
    error = AzureError("PHI3-A001", "refused", where="chat", fix="ask", status=403)
    again = pickle.loads(pickle.dumps(error))

    assert (type(again), str(again)) == (AzureError, str(error))
    assert (again.code, again.where, again.fix, again.status) == ("PHI3-A001", "chat", "ask", 403)


def test_the_tree_is_drawn_with_every_class_and_its_exit_code():
    drawn = inspect.getdoc(errors) or ""
    classes = [
        c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Phi3Error)
    ]

    for cls in classes:
        line = next(line for line in drawn.splitlines() if cls.__name__ in line)
        assert f"exit {cls.exit_code}" in line


def test_the_readme_tells_every_exit_code_and_its_letter():
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d+) \| (\w?) ?\|", page, re.MULTILINE))
    package = Path(errors.__file__).parent
    source = "\n".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    raised = set(re.findall(r"(\w+Error)\(\s*\"PHI3-([A-Z])\d+\"", source))

    assert {letter for _, letter in raised} == set(filter(None, rows.values()))
    for name, letter in raised:
        cls = getattr(errors, name, None)
        assert cls is None or rows[str(cls.exit_code)] == letter, (name, letter)
    assert str(errors.Interrupted.exit_code) in rows


def _texts(tree):
    """The strings of a module but its docstrings; what is put in is left out."""
    nodes = list(ast.walk(tree))
    texts = [node.values for node in nodes if isinstance(node, ast.JoinedStr)]
    apart = {id(part) for parts in texts for part in parts}
    apart |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts += [[node] for node in nodes if isinstance(node, ast.Constant) and id(node) not in apart]
    for parts in texts:
        yield "".join(str(part.value) for part in parts if isinstance(part, ast.Constant))


def test_a_command_of_mlflow_that_a_message_names_has_its_target():
    package = Path(mlflow_phi3.__file__).parent
    commands = [
        command
        for file in package.rglob("*.py")
        for text in _texts(ast.parse(file.read_text(encoding="utf-8")))
        for command in text.split("mlflow deployments ")[1:]
    ]
    assert len(commands) > 15
    assert [command for command in commands if "-t " not in command] == []

"""What is wrong with rows: stable codes, the place, the value and the mend."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mlflow_phi3.errors import DataError

Severity = Literal["error", "warning"]
# Rows with these have a setting of their own; the others are left out by on_error=reject.
_OWN_SETTING = frozenset({"PHI3-D021", "PHI3-D045", "PHI3-D046", "PHI3-D047"})
SHOWN_CODES = 12
SHOWN_PLACES = 3
_VALUE_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Rule:
    """A thing that can be wrong.

    Args:
        title: What the rule asks for, in a few words.
        fix: What the person can do.
        severity: ``error`` keeps the row out; ``warning`` tells and keeps it.
    """

    title: str
    fix: str
    severity: Severity = "error"


RULES: Mapping[str, Rule] = {
    "PHI3-D001": Rule("text is UTF-8", "save the file as UTF-8"),
    "PHI3-D002": Rule("a row is JSON", "write one complete JSON object on each line"),
    "PHI3-D003": Rule("a row is an object", 'write {"messages": [...]} on each line'),
    "PHI3-D004": Rule("nesting can be read", "flatten the row"),
    "PHI3-D005": Rule("a row is at most 16 MiB", "split the conversation"),
    "PHI3-D006": Rule("messages are a list", 'give "messages": [{"role": ..., "content": ...}]'),
    "PHI3-D007": Rule("there are messages", "add a user's message and the assistant's answer"),
    "PHI3-D008": Rule("a message has role and content", "give every message both"),
    "PHI3-D009": Rule("a role is known", "use system, user or assistant"),
    "PHI3-D010": Rule("content is text", "write the content as one string"),
    "PHI3-D011": Rule("content is not empty", "fill in the text or remove the row"),
    "PHI3-D012": Rule("the system message is first", "move it to the beginning, and keep only one"),
    "PHI3-D013": Rule("user and assistant take turns", "join messages of one role that follow"),
    "PHI3-D014": Rule("the last message is the assistant's", "end the row with the answer"),
    "PHI3-D015": Rule("an exchange begins with the user", "put a user's message first"),
    "PHI3-D016": Rule(
        "content holds no special token's text",
        "nothing, when it is meant: it is encoded as plain characters and cannot forge a turn",
        "warning",
    ),
    "PHI3-D017": Rule(
        "text can be written as UTF-8", "remove the lone surrogate (\\ud800-\\udfff)"
    ),
    "PHI3-D018": Rule("text holds no noncharacters", "remove U+10FFFE and U+10FFFF"),
    "PHI3-D019": Rule("a row has a label", "fill in the label"),
    "PHI3-D020": Rule(
        "a message has only role and content",
        "nothing, when the other keys may be left out of training",
        "warning",
    ),
    "PHI3-D021": Rule(
        "a conversation fits max_length",
        "shorten it, set overlength=drop or overlength=truncate, or raise max_length where the "
        "model reads more",
    ),
    "PHI3-D022": Rule("a row teaches something", "give the assistant's message text"),
    "PHI3-D023": Rule("the chat template renders the row", "follow the template's order of roles"),
    "PHI3-D024": Rule(
        "the chat template shows every message",
        "say it in the user's message, or use a model whose template has this role",
        "warning",
    ),
    "PHI3-D027": Rule("the task can read the row", "mend the row, or the package of the task"),
    "PHI3-D026": Rule(
        "content holds no HTML", "set clean_html=true, unless it is meant", "warning"
    ),
    "PHI3-D028": Rule("a key stands once in an object", "keep the one that is meant"),
    "PHI3-D029": Rule(
        "answers are learnt",
        "remove the weight, or what follows the last answer to learn; train_on=last learns the "
        "last answer alone",
    ),
    "PHI3-D031": Rule("a cell can be read", "write the table again without the value"),
    "PHI3-D034": Rule("a record fits the table's header", "quote fields that hold the delimiter"),
    "PHI3-D037": Rule(
        "a file is at most 512 MB, as Azure's managed fine-tuning asks",
        "nothing to train here; give Azure a smaller file",
        "warning",
    ),
    "PHI3-D038": Rule(
        "there are at least 50 rows",
        "give more: 50 to 100 rows are a beginning, 500 make a good model",
        "warning",
    ),
    "PHI3-D039": Rule(
        "a split leaves rows of each label to train on",
        "give more rows with the label, or none that ask the same under another",
        "warning",
    ),
    "PHI3-D041": Rule(
        "a split fills itself by hash",
        "nothing; with more rows the row may return to the training data",
        "warning",
    ),
    "PHI3-D044": Rule(
        "a split has about its share",
        "give more rows, fewer that ask the same, or validation_data and test_data of your own",
        "warning",
    ),
    "PHI3-D045": Rule(
        "no training row is in validation or test data", "remove it, or set leaks=drop"
    ),
    "PHI3-D046": Rule(
        "no training row asks what validation or test data ask", "remove it, or set leaks=drop"
    ),
    "PHI3-D047": Rule(
        "no training row is almost one of validation or test data",
        "remove it, set leaks=drop, or raise near_duplicate_similarity",
    ),
    "PHI3-D048": Rule(
        "a label of validation or test data is trained on", "give training rows with the label"
    ),
    "PHI3-D049": Rule(
        "labels differ by more than case, blanks or how a number is written",
        "write the label in one way, unless two are meant",
        "warning",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong at one place.

    Args:
        code: Key of :data:`RULES`.
        source: File or dataset as errors cite it.
        line: Line or row number, 1-based; 0 for the source as a whole.
        problem: What is wrong there, with the value.
        related: Another place that it has to do with, such as a duplicate's first row.
    """

    code: str
    source: str
    line: int
    problem: str
    related: str = ""

    @property
    def place(self) -> str:
        """``source:line``."""
        return f"{self.source}:{self.line}" if self.line else self.source

    def to_json(self) -> str:
        """One line of ``findings.jsonl``."""
        rule = RULES[self.code]
        facts = {
            "code": self.code,
            "severity": rule.severity,
            "place": self.place,
            "source": self.source,
            "line": self.line,
            "problem": self.problem,
            "fix": rule.fix,
        }
        if self.related:
            facts["related"] = self.related
        return json.dumps(facts, ensure_ascii=False)


@dataclass(slots=True)
class Tally:
    """Findings counted by code, with the first few of each.

    Args:
        counts: Findings by code.
        first: The first :data:`SHOWN_PLACES` findings by code.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[Finding]] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        """Count one finding."""
        self.counts[finding.code] += 1
        shown = self.first.setdefault(finding.code, [])
        if len(shown) < SHOWN_PLACES:
            shown.append(finding)

    def merge(self, other: "Tally") -> None:
        """Count another tally's findings, which come after these."""
        self.counts.update(other.counts)
        for code, found in other.first.items():
            shown = self.first.setdefault(code, [])
            shown.extend(found[: SHOWN_PLACES - len(shown)])

    def by_frequency(self, codes: Iterable[str] | None = None) -> list[tuple[str, int]]:
        """Codes and counts, most frequent first, equal counts in the order of their codes."""
        wanted = self.counts if codes is None else [code for code in codes if self.counts[code]]
        return sorted(
            ((code, self.counts[code]) for code in wanted), key=lambda pair: (-pair[1], pair[0])
        )

    def error(self, codes: Iterable[str], whole: Path) -> DataError:
        """The exception for findings of ``codes``: the most frequent first, the rest beneath.

        Args:
            codes: Codes that stop the preparation; at least one has been counted.
            whole: Where all findings are written.
        """
        ordered = self.by_frequency(codes)
        code, _ = ordered[0]
        lead = self.first[code][0]
        total = sum(number for _, number in ordered)
        lines = [lead.problem if total == 1 else f"{lead.problem}; {total} findings in all"]
        for other, number in ordered[:SHOWN_CODES] if total > 1 else []:
            places = ", ".join(finding.place for finding in self.first[other])
            more = f" and {number - SHOWN_PLACES} more" if number > SHOWN_PLACES else ""
            example = f" ({self.first[other][0].problem})" if other != code else ""
            lines.append(f"\n  {number:>6} x {other} at {places}{more}{example}")
            lines.append(f"\n           {RULES[other].fix}")
        if len(ordered) > SHOWN_CODES:
            lines.append(f"\n  further codes: {len(ordered) - SHOWN_CODES}")
        if total > 1:
            lines.append("\n  ")
        lines.append(f"{' ' if total == 1 else ''}(all: {whole})")
        fix = RULES[code].fix if len(ordered) == 1 else "mend them as said beneath each"
        apart = sorted(_OWN_SETTING.intersection(found for found, _ in ordered))
        if len(apart) < len(ordered):
            but = f" (not those of {', '.join(apart)})" if apart else ""
            fix += f", or leave such rows out by on_error=reject{but}"
        return DataError(code, "".join(lines), where=lead.place, fix=fix)


def printable(text: str) -> str:
    """The text with lone surrogates escaped, which no file and no terminal would take."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def show(value: object) -> str:
    """A value as a message quotes it: JSON-like, cut at 200 characters."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} nested too deeply to show"
    return text if len(text) <= _VALUE_LENGTH else f"{text[:_VALUE_LENGTH]}... ({len(text)} long)"


def join_findings(parts: Path, target: Path, tally: Tally) -> None:
    """Write the findings of all pieces to one file, the most frequent code first."""
    files = sorted(parts.glob("*.findings"))
    with target.open("wb") as out:
        for code, _ in tally.by_frequency():
            wanted = f'{{"code": "{code}"'.encode()
            for file in files:
                with file.open("rb") as stream:
                    out.writelines(line for line in stream if line.startswith(wanted))
    for file in files:
        file.unlink()


def join_parts(parts: Path, suffix: str, target: Path) -> None:
    """Append the pieces' files with ``suffix`` to one, in order, and remove them."""
    with target.open("wb") as out:
        for part in sorted(parts.glob(f"*.{suffix}")):
            with part.open("rb") as stream:
                shutil.copyfileobj(stream, out)
            part.unlink()

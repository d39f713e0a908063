import json
import re

from rich.console import Console

from mlflow_phi3.evaluation.notation import NONE
from mlflow_phi3.workflows import screen
from mlflow_phi3.workflows.screen import Screen


def test_plain_lines_tell_a_stage_without_a_terminal(capsys):
    with Screen("plain").stage("sweep") as update:
        update("trial-000 step 1/9", 0.1)
        update("too soon after the first to be told", 0.2)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  sweep  10% trial-000 step 1/9"
    assert lines[1].startswith("✓ sweep in")
    assert len(lines) == 2


def test_no_word_between_colons_becomes_a_picture(capsys):
    Screen("plain").say("first at chats.jsonl:100: in /data/a:b:c")
    Screen("json").say("first at chats.jsonl:100: in /data/a:b:c")

    plain, machine = capsys.readouterr().out.splitlines()
    assert plain == json.loads(machine)["text"] == "first at chats.jsonl:100: in /data/a:b:c"


def test_plain_lines_go_on_when_time_has_passed(capsys, monkeypatch):
    monkeypatch.setattr(screen, "_PLAIN_EVERY_S", 0.0)
    with Screen("plain").stage("sweep") as update:
        for step in range(3):
            update(f"step {step}")

    assert len(capsys.readouterr().out.splitlines()) == 4


def tell(monkeypatch, *told):
    """A stage that is told (moment in seconds, text, share that is done)."""
    now = 0.0
    monkeypatch.setattr(screen.time, "monotonic", lambda: now)
    with Screen("plain").stage("sweep") as update:
        for now, text, done in told:  # noqa: B007 - the clock reads it
            update(text, done)


def test_plain_lines_tell_the_time_that_is_left(capsys, monkeypatch):
    tell(monkeypatch, (10, "a", 0.0), (40, "b", 0.25), (70, "c", 0.01), (7210, "d", 0.5))

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  sweep   0% a"
    assert lines[1] == "  sweep  25% b, 1:30 left"
    assert lines[2] == "  sweep   1% c"
    assert lines[3] == "  sweep  50% d, 2:00:00 left"


def test_what_earlier_commands_did_tells_nothing_of_this_ones_pace(capsys, monkeypatch):
    tell(monkeypatch, (10, "a", 0.75), (110, "b", 0.8))

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  sweep  75% a"
    assert lines[1] == "  sweep  80% b, 6:40 left"


def test_the_live_line_takes_steps_told_at_one_moment_for_no_pace(monkeypatch):
    now = 0.0
    monkeypatch.setattr(screen.time, "monotonic", lambda: now)
    told = narrow(80)
    bar = told._bar()
    update = told._line(bar, "sweep")
    left = []
    for now, done in ((10.0, 0.01), (10.001, 0.05), (110.0, 0.26)):  # noqa: B007 - the clock reads it
        update("four trials step together", done)
        left.append(bar.tasks[0].fields["left"])

    assert left == ["-:--", "-:--", "4:56"]
    (line,) = told.console.render_lines(bar.get_renderable())
    assert " 4:56 four trials" in "".join(part.text for part in line)


def test_a_sentence_that_begins_with_a_number_is_no_figure(capsys):
    rows = [["0 prompts against 47; 20 are the least"], ["5 prompts"]]
    Screen("plain").table("Drift", ["note"], rows)

    assert "│ 5 prompts  " in capsys.readouterr().out


def test_json_lines_are_for_machines(capsys):
    told = Screen("json")
    told.say("[bold]hello[/]", version="1")
    with told.stage("prepare") as update:
        update("reading", 0.5)
    told.table("trials", ["trial", "loss"], [["trial-000", "1.5"]])

    message, progress, stage, trial = map(json.loads, capsys.readouterr().out.splitlines())
    assert message == {"event": "message", "text": "hello", "version": "1"}
    assert (progress["event"], progress["done"]) == ("progress", 0.5)
    assert (stage["event"], stage["stage"]) == ("stage", "prepare")
    assert (trial["event"], trial["trial"], trial["loss"]) == ("trials", "trial-000", "1.5")


def test_facts_are_numbers_for_machines_and_silence_for_people(capsys):
    Screen("json").facts("measured", tuned={"loss": 1029.5})
    Screen("plain").facts("measured", tuned={"loss": 1029.5})

    told = capsys.readouterr().out
    assert json.loads(told) == {"event": "measured", "text": "", "tuned": {"loss": 1029.5}}


def test_a_table_shows_every_row(capsys):
    Screen("plain").table("Trials", ["trial", "loss"], [["trial-000", "1.5"], ["trial-001", "2"]])

    told = capsys.readouterr().out
    assert "trial-000" in told
    assert "trial-001" in told


def test_a_table_sets_words_left_and_figures_right(capsys):
    rows = [["exact match", "0.5", "of the demo"], ["loss", "12.25", "of all"], ["cost", "?", ""]]
    Screen("plain").table("Figures", ["metric", "value", "source"], rows)

    shown = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert shown[1].startswith("│ loss        │ 12.25 │ of all")
    assert shown[2].startswith("│ cost        │     ? │")


def test_what_others_wrote_is_no_markup(capsys):
    said = ["What does [/INST] mean?", "[red]x[/red]"]
    Screen("plain").table("[a]", ["[b]", "[c]"], [said])
    Screen("json").table("[a]", ["[b]", "[c]"], [said])
    with Screen("plain").stage("watch") as update:
        update("[/INST]")

    table, _, rest = capsys.readouterr().out.partition('{"event"')
    assert "[a]" in table
    assert all(word in table for word in ("[b]", "[c]", *said))
    assert json.loads('{"event"' + rest.splitlines()[0])["[b]"] == said[0]
    assert "  watch [/INST]" in rest


def narrow(width):
    told = Screen("plain")
    told.console = Console(width=width, soft_wrap=True, highlight=False)
    return told


def test_the_live_line_keeps_name_bar_and_clocks_and_cuts_the_text():
    told = narrow(80)
    bar = told._bar()
    text = "4/20 trials, trial-004 step 3/84 loss 3.380, best 2.6898 (trial-000), 1,256 tokens/s"
    told._line(bar, "sweep")(text, 0.5)
    (line,) = told.console.render_lines(bar.get_renderable())
    shown = "".join(part.text for part in line)

    assert re.match(r"  sweep [━╸╺ ]{10} 0:00:00 -:-- 4/20 trials, trial-004 step 3/84", shown)
    assert shown.rstrip().endswith("…")


TRIALS = ["trial", "batch_size_multiplier", "learning_rate", "val loss", "perplexity", "state"]
ROWS = [
    ["* trial-005", "1", "1.14e-04", "2.6149", "13.666", "complete"],
    ["  trial-003", "1", "8.36e-05", NONE, "", "failed"],
]


def test_a_table_too_wide_is_a_line_of_names_and_values_a_row(capsys):
    narrow(80).table("Study", TRIALS, ROWS)

    assert capsys.readouterr().out.splitlines() == [
        "Study",
        "* trial-005  batch_size_multiplier 1, learning_rate 1.14e-04, val loss 2.6149,",
        "    perplexity 13.666, state complete",
        "  trial-003  batch_size_multiplier 1, learning_rate 8.36e-05, val loss \N{EN DASH}, state",
        "    failed",
    ]


def test_a_table_breaks_sentences_and_addresses_but_no_name_and_no_figure(capsys):
    note = "measured on this machine, see github.com/somebody/prices-of-machines/by-hour.json"
    rows = [["tokens billed", "19,524", note], ["hours", "1.18e-03", note]]
    narrow(60).table("Plan", ["what", "amount", "source"], rows)

    shown = capsys.readouterr().out
    assert "│ tokens billed │   19,524 │ measured on this" in shown
    assert "│ hours         │ 1.18e-03 │" in shown
    assert all(len(line) <= 60 for line in shown.splitlines())


def test_the_one_value_of_a_row_of_two_needs_no_name(capsys):
    narrow(20).table("Job", ["fact", "value"], [["address of it", "completed successfully"]])

    lines = capsys.readouterr().out.splitlines()
    assert lines == ["Job", "address of it", "    completed", "    successfully"]


def test_what_is_no_number_stands_with_the_numbers(capsys):
    rows = [["a", "2.6149"], ["b", "nan"], ["c", NONE]]
    Screen("plain").table("Trials", ["trial", "loss"], rows)

    shown = capsys.readouterr().out
    assert "│    nan │" in shown
    assert "│      \N{EN DASH} │" in shown

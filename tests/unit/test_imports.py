import subprocess
import sys

PROBE = """
import gc, sys
from mlflow_phi3.imports import import_large
seen = []
gc.callbacks.append(lambda phase, _: seen.append(phase))
sys.path.insert(0, {folder!r})
{before}
try:
    module = import_large("large")
    print(module.collecting, len(module.objects), len(seen))
except ImportError as error:
    print(error)
print(gc.isenabled(), gc.get_freeze_count() > 20_000)
again = sys.modules.get("large")
print(again is None or import_large("large") is again)
"""
LARGE = "import gc\ncollecting = gc.isenabled()\nobjects = [[] for _ in range(20_000)]\n"


def probe(folder, source, before=""):
    (folder / "large.py").write_text(source)
    text = PROBE.format(folder=str(folder), before=before)
    told = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=60
    )
    return told.stdout.splitlines()


def test_nothing_is_collected_while_a_module_is_imported_nor_looked_at_again(tmp_path):
    assert probe(tmp_path, LARGE) == ["False 20000 0", "True True", "True"]


def test_a_failed_import_leaves_the_collector_as_it_was(tmp_path):
    told = probe(tmp_path, LARGE + "raise ImportError('no torch here')\n")

    assert told == ["no torch here", "True False", "True"]


def test_who_has_switched_the_collector_off_keeps_it_off(tmp_path):
    assert probe(tmp_path, LARGE, before="gc.disable()")[1] == "False True"

"""Importing what is large: torch, transformers, MLflow and Azure's SDK make a million objects."""

import atexit
import gc
import importlib
import sys
from types import ModuleType


def import_large(name: str) -> ModuleType:
    """Import module ``name`` and all that it needs, without looking for garbage among it.

    None of these objects is garbage, yet Python's collector goes through them again and again while
    they are made, and once more when the program ends: on two cores, 4 of a workflow's 11 seconds
    without its work. So the collector rests until they are there, and leaves them alone from then
    on.
    """
    if name in sys.modules:
        return sys.modules[name]
    collecting = gc.isenabled()
    gc.disable()
    try:
        module = importlib.import_module(name)
        gc.freeze()
        atexit.register(gc.freeze)
        return module
    finally:
        if collecting:
            gc.enable()

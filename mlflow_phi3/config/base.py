"""The base of every schema."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen schema that refuses what it does not know.

    Fields are flat, each with a default that works and its documentation beneath it: they are the
    names after ``-P`` of ``mlflow run`` and after ``--`` of the scripts in ``projects/``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    described_in: ClassVar[str] = "--help, or docs/parameters.md"
    """Where people read what the fields mean."""

"""What `prepare` reads, refuses, cleans and splits."""

from importlib.metadata import entry_points
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from mlflow_phi3.config.base import Config

SPLITS = ("train", "validation", "test")
"""What rows are for; each has its ``<split>_data``."""

TASKS = ("chat-completion", "text-classification")
TASK_ENTRY_POINTS = "mlflow_phi3.tasks"


class PrepareConfig(Config):
    """From data files to checked, split and tokenised examples."""

    train_data: str = "demo"
    """Training data: `demo`, a file (JSONL, JSON, CSV, TSV, Parquet), a folder saved by `datasets`,
    or a hub dataset id. Several with a comma between; `file:2` shows a source twice, `file:0.5`
    takes half of its rows."""

    validation_data: str = ""
    """Validation data, in the same ways; empty splits it off the training data."""

    test_data: str = ""
    """Test data, in the same ways; empty splits it off the training data."""

    validation_split: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training data that becomes validation data when none is given."""

    test_split: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training data that becomes test data when none is given."""

    format: Literal[
        "auto",
        "chat",
        "sharegpt",
        "alpaca",
        "prompt-completion",
        "question-answer",
        "text-label",
    ] = "auto"
    """What a row looks like; `auto` detects it for each source, and the report says what was taken
    for what."""

    task: str = "chat-completion"
    """What is learnt: to answer (`chat-completion`), to name a text's label
    (`text-classification`), or a task that an installed package brings."""

    on_error: Literal["fail", "reject"] = "fail"
    """Rows that cannot be trained on: `fail` stops with all of them listed, `reject` leaves them
    out and writes them, with the reason, to `data/rejected.jsonl`."""

    max_length: int = Field(default=0, ge=0)
    """Tokens a conversation may have; 0 is what the model can read."""

    overlength: Literal["error", "drop", "truncate"] = "error"
    """Longer conversations: `error` lists them, `drop` rejects them, `truncate` leaves out the
    oldest exchanges, then the beginning of the question, and last the end of the answer, which
    keeps at least half of the room that the two have."""

    train_on: Literal["all-assistant", "last"] = "all-assistant"
    """Which answers of a conversation are learnt."""

    leaks: Literal["error", "drop", "allow"] = "error"
    """Training rows that are also, or almost, in validation or test files of your own: `error`
    lists the pairs, `drop` removes the training row, `allow` lists and keeps them."""

    clean_unicode: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode normalisation form."""

    clean_whitespace: bool = True
    """One kind of line end, no blanks at the end of lines and around a message."""

    clean_control_characters: bool = True
    """Remove control characters and byte-order marks; joiners that scripts need stay."""

    clean_html: bool = False
    """Turn HTML entities into characters and remove well-known tags. Off, because code and markup
    may be what is taught; the report says how many rows look like HTML."""

    clean_missing_values: bool = True
    """Take cells such as `NaN`, `null` or `N/A` of tables for empty."""

    clean_duplicates: bool = True
    """Keep the first of rows that say exactly the same."""

    clean_near_duplicates: bool = True
    """Keep the first of rows that say almost the same (MinHash)."""

    near_duplicate_similarity: float = Field(default=0.9, gt=0.5, le=1)
    """Share of equal runs of five tokens (Jaccard, estimated) from which two rows are near
    duplicates."""

    prepare_workers: int = Field(default=0, ge=0)
    """Processes that prepare large data; 0 takes one for each core."""

    @model_validator(mode="after")
    def _leave_some_to_train(self) -> Self:
        if self.validation_split + self.test_split >= 1:
            raise ValueError(
                f"validation_split {self.validation_split:g} and test_split {self.test_split:g} "
                "leave nothing to train on"
            )
        return self

    @field_validator("task")
    @classmethod
    def _is_known(cls, name: str) -> str:
        known = [*TASKS, *(entry.name for entry in entry_points(group=TASK_ENTRY_POINTS))]
        if name not in known:
            raise ValueError(f"is none of {', '.join(known)}")
        return name

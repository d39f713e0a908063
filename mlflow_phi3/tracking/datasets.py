"""Data as MLflow shows it: dataset inputs whose digest covers every row."""

import json
from dataclasses import dataclass

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from mlflow_phi3.tracking.run import Run

# MLflow cuts no digest but refuses one longer than this (mlflow.utils.validation).
_DIGEST_LENGTH = 36


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """One split, as the store should describe it.

    Args:
        name: Name of the data set.
        split: ``train``, ``validation`` or ``test``.
        sha256: Digest over all rows of the split, hexadecimal.
        source: Where the rows came from.
        rows: Conversations.
        tokens: Tokens of them, rendered.
        supervised_tokens: Tokens that carry loss.
    """

    name: str
    split: str
    sha256: str
    source: str
    rows: int
    tokens: int
    supervised_tokens: int


def log_datasets(run: Run, facts: list[DatasetFacts]) -> None:
    """Log the splits as inputs of a run."""
    run.client.log_inputs(run.run_id, [_input(fact) for fact in facts])


def _input(fact: DatasetFacts) -> DatasetInput:
    profile = {
        "num_rows": fact.rows,
        "num_tokens": fact.tokens,
        "num_supervised_tokens": fact.supervised_tokens,
    }
    dataset = Dataset(
        name=f"{fact.name}-{fact.split}",
        digest=fact.sha256[:_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"uri": fact.source}),
        schema=json.dumps({"mlflow_colspec": [{"name": "messages", "type": "object"}]}),
        profile=json.dumps(profile),
    )
    return DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, fact.split)])

"""How a model is measured on the test split."""

from pydantic import Field

from mlflow_phi3.config.comparison import ComparisonConfig


class EvaluateConfig(ComparisonConfig):
    """What is measured, and how surely."""

    answers: int = Field(default=64, ge=0)
    """Test conversations that are answered and compared with the expected answer, from the first
    on; 0 answers none. Losses are always taken over the whole test split."""

    max_new_tokens: int = Field(default=128, ge=1)
    """Tokens of a generated answer, at most."""

    generation_batch_size: int = Field(default=16, ge=1)
    """Conversations that are answered together."""

    judge_model: str = ""
    """A language model that judges the answers by MLflow's scorers, as MLflow names models:
    `openai:/gpt-4.1-mini`, `azure:/<deployment>`. Its key is read from the environment, as MLflow
    does. Empty judges none."""

    judge_scorers: str = "correctness,relevance"
    """What is judged: some of `completeness`, `correctness`, `equivalence`, `fluency`, `relevance`,
    `safety`, with a comma between."""

    judge_guidelines: str = ""
    """Rules in words that every answer is judged by as well; empty has none."""

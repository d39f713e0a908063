"""From what is there and what is wanted to what is done: plan, rollout, promotion, clean-up."""

"""Serverless endpoints: models that Foundry tuned, billed by token."""

"""The public registry ``azureml``: the base models that Foundry offers."""

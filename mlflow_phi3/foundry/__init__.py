"""Training in Azure AI Foundry: the project, its jobs, and what they tuned."""

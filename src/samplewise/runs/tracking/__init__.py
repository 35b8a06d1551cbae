"""A run, followed by an experiment tracker: Weights & Biases, MLflow, or whatever takes OpenTelemetry spans."""

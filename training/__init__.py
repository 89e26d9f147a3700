"""Training, evaluation and the nightly task."""

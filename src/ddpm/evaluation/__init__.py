"""What a model is worth: measures of its images against real ones, of its likelihood, and of what it copied."""

"""Pictures that people collect and label for a training: the folder that holds them, and its page."""

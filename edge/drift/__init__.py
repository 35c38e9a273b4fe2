"""Whether a line's pictures, scores and evidence still look like those that its bundle was calibrated on."""

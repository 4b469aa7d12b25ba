"""Makes `checkpoints/debug/` from nothing: scenes, training, calibration, files."""

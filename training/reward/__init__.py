"""How the bundled reward model is made: draws, training, calibration, figures."""

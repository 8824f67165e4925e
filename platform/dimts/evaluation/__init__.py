"""How good a voice is, measured on sentences that it has not been trained on."""

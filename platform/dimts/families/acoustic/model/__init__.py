"""T3: text encoder, learned alignment, duration predictor, length regulator, mel decoder."""

"""The vocoder: pitch net, excitation, generator of spectral filters; its discriminators."""

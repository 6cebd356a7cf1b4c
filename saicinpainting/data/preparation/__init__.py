"""Making the data sets of the paper: downloads, extraction, evaluation sets, the location config."""

"""k folds, and the model of all photos that may leave them."""

"""How good the answers of a model are: figures with intervals, over texts, choices, held-out text and rewards."""

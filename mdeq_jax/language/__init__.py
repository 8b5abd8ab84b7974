"""Language models whose cell is a transformer: DEQ-Transformer, its data, training and text."""

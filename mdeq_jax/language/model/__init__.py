"""DEQ-Transformer: vocabulary, relative attention, cell and memory, and the import of its files."""

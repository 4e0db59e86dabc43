"""The book's experiments: one module an idea, small functions that return plain numbers."""

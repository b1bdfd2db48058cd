"""Is everything there that a training needs? Each check is small, independent, and says what to do."""
